//! The id of a VM: `vm-` and eight lower-case hexadecimal digits.

use crate::{InvalidName, text_type};
use serde::{Deserialize, Serialize};

/// A VM's id. Everything else that is derived from a VM is named from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(String);

text_type!(VmId);

impl VmId {
    /// Makes an id from 32 bits that the caller drew at random.
    pub fn from_bits(bits: u32) -> Self {
        Self(format!("vm-{bits:08x}"))
    }

    /// Parses `vm-` and eight lower-case hexadecimal digits, nothing else.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refuse = |rule| Err(InvalidName::new("VM id", text, rule));
        let Some(digits) = text.strip_prefix("vm-") else {
            return refuse("does not begin with \"vm-\"");
        };
        if digits.len() != 8
            || !digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return refuse("is not \"vm-\" and 8 lower-case hexadecimal digits");
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let id = VmId::from_bits(0x00c0_ffee);
        assert_eq!(id.as_str(), "vm-00c0ffee");
        assert_eq!(VmId::parse("vm-00c0ffee"), Ok(id));
    }

    #[test]
    fn vm_id_refuses_paths_options_and_homoglyphs() {
        for bad in [
            "",
            ".",
            "..",
            "-rf",
            "--config-file",
            "a/b",
            "vm-",
            "vm-1234567",
            "vm-123456789",
            "vm-1234567G",
            "vm-ABCDEF01",
            "vm-../../x",
            "vm-12345678\n",
            "vm-1234567é",
            " vm-12345678",
        ] {
            assert!(VmId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<VmId>("\"vm-../..\"").is_err());
    }
}
