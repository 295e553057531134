//! Bytes that look like noise and repeat from run to run: a xorshift generator.

pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed << 1))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Fewer bytes than `most`.
    pub(super) fn bytes(&mut self, most: u64) -> Vec<u8> {
        let count = usize::try_from(self.next() % most).unwrap_or(0);
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(count).collect()
    }
}
