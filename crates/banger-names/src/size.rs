//! Sizes in bytes, written as people write them.

use banger_ids::InvalidName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A size in bytes. On the wire it is a plain number of bytes; as text it takes the suffixes
/// `K M G T` (powers of 1024, with or without `B` or `iB`), and a bare number means MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const MIB: u64 = 1 << 20;

impl ByteSize {
    /// A size of so many MiB (1,048,576 bytes).
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(MIB))
    }

    /// A size of so many GiB.
    pub const fn gib(count: u64) -> Self {
        Self::mib(count.saturating_mul(1024))
    }

    /// The size in whole MiB, rounded up.
    pub const fn as_mib(self) -> u64 {
        self.0.div_ceil(MIB)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refuse = |rule| InvalidName::new("size", text, rule);
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end);
        let number: u64 = digits
            .parse()
            .map_err(|_| refuse("does not begin with a whole number"))?;
        let unit = suffix.to_ascii_lowercase();
        let unit = unit
            .strip_suffix("ib")
            .or(unit.strip_suffix('b'))
            .unwrap_or(&unit);
        let factor = match (unit, suffix) {
            ("", "") => MIB,
            ("", "b" | "B") => 1,
            ("k", _) => 1 << 10,
            ("m", _) => MIB,
            ("g", _) => 1 << 30,
            ("t", _) => 1 << 40,
            _ => return Err(refuse("has a suffix other than K, M, G or T")),
        };
        number
            .checked_mul(factor)
            .map(Self)
            .ok_or_else(|| refuse("is too large"))
    }
}

impl fmt::Display for ByteSize {
    /// Three significant digits in the largest fitting unit, as `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let Some((shift, unit)) = units.into_iter().find(|(shift, _)| self.0 >> shift > 0) else {
            return f.pad(&format!("{} B", self.0));
        };
        let tenths = (u128::from(self.0) * 10) >> shift;
        let text = if tenths >= 1000 || tenths % 10 == 0 {
            format!("{} {unit}", tenths / 10)
        } else {
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_write() {
        for (text, bytes) in [
            ("512", 512 * MIB),
            ("2G", 2 << 30),
            ("2g", 2 << 30),
            ("2GiB", 2 << 30),
            ("64k", 64 << 10),
            ("1T", 1 << 40),
            ("100B", 100),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn size_refuses_signs_fractions_and_overflow() {
        for bad in [
            "",
            "-1",
            "+1",
            "1.5G",
            "1e3",
            "0x10",
            "G",
            "1 G",
            "1P",
            "99999999999999999999",
            "18446744073709551615T",
            "1ib",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn displays_briefly() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (2 << 30, "2 GiB"),
            (27_262_976, "26 MiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
