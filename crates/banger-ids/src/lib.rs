//! What tells one VM, one start of it and its network from all others: parsed once, then trusted by
//! type. The part of the project's names that root works with.
//!
//! Every value here can be made only by parsing, so a function that takes one
//! need not check it again. Nothing here does I/O.
#![forbid(unsafe_code)]

mod network;
mod vm_id;
mod vm_ref;

pub use network::{BridgeName, Subnet, guest_mac};
pub use vm_id::VmId;
pub use vm_ref::VmRef;

/// Why a text is not the thing it was meant to be. The message names the text and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} {rule}")]
pub struct InvalidName {
    /// What the text was meant to be, as "VM name".
    pub what: &'static str,
    /// The text, cut to its first 80 characters.
    pub text: String,
    /// The rule it breaks, as "is longer than 63 characters".
    pub rule: &'static str,
}

impl InvalidName {
    /// `text` is not a `what`, since it breaks `rule`.
    pub fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self {
            what,
            text: text.chars().take(80).collect(),
            rule,
        }
    }
}

/// Implements the conversions that every parsed text has: `FromStr`, `TryFrom<String>`
/// (and through it serde), `Display`, `AsRef<str>`.
#[macro_export]
macro_rules! text_type {
    ($type:ident) => {
        impl std::str::FromStr for $type {
            type Err = $crate::InvalidName;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = $crate::InvalidName;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}
