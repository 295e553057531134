//! The host's seed into the kernel's random pool.

use std::os::fd::AsFd;

use banger_guest_sys::entropy;

use super::{InitError, failed};

/// Adds the seed (hexadecimal) with full credit and reseeds the generator.
pub(super) fn add(seed: &str) -> Result<(), InitError> {
    // The seed itself is not shown: it is a secret.
    let bytes = decode(seed).ok_or_else(|| InitError::Value {
        what: "seed",
        value: format!("of {} characters", seed.len()),
    })?;
    let device = entropy::open_device().map_err(failed("open /dev/urandom"))?;
    entropy::add_credited(device.as_fd(), &bytes).map_err(failed("seed the random pool"))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let is_usable = rest.is_empty() && (1..=entropy::MAX_SEED).contains(&pairs.len());
    is_usable.then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_whole_bytes_in_hexadecimal() {
        assert_eq!(decode("00fFa5"), Some(vec![0, 255, 0xa5]));
        for bad in ["", "0", "0g", "é0", &"00".repeat(513)] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
