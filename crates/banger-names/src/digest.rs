//! A content digest: `sha256:` and 64 lower-case hexadecimal digits.

use banger_ids::{InvalidName, text_type};
use serde::{Deserialize, Serialize};

/// The SHA-256 of some content, by which it is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

text_type!(Digest);

impl Digest {
    /// Wraps a finished SHA-256.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        use std::fmt::Write;
        let mut text = String::from("sha256:");
        for byte in hash {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text)
    }

    /// Parses `sha256:` and 64 lower-case hexadecimal digits, nothing else.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidName::new(
                "digest",
                text,
                "is not \"sha256:\" and 64 lower-case hexadecimal digits",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The 64 hexadecimal digits: safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first 12 hexadecimal digits, for tables.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole text, with its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_refuses_other_algorithms_paths_and_cases() {
        let hex = "ab".repeat(32);
        assert!(Digest::parse(&format!("sha256:{hex}")).is_ok());
        for bad in [
            String::new(),
            hex.clone(),
            format!("md5:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            "sha256:../../x".into(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
        ] {
            assert!(Digest::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn wraps_a_hash() {
        let digest = Digest::from_sha256([0xab; 32]);
        assert_eq!(digest.short(), "abababababab");
        assert_eq!(Digest::parse(digest.as_str()), Ok(digest.clone()));
    }
}
