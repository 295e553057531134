//! When a VM that has ended is started again by itself.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// When a VM that has ended is started again by itself: `no`, `on-failure`, `on-failure:N`, `always`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When its VMM or guest failed.
    OnFailure {
        /// How often in a row at most; for ever when left out.
        most: Option<u32>,
    },
    /// When it ended for any reason but that it was stopped or killed by a command.
    Always,
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let most = text.strip_prefix("on-failure:");
        match (text, most.map(str::parse)) {
            ("no", _) => Ok(Self::No),
            ("always", _) => Ok(Self::Always),
            ("on-failure", _) => Ok(Self::OnFailure { most: None }),
            (_, Some(Ok(most))) if most > 0 => Ok(Self::OnFailure { most: Some(most) }),
            _ => Err("a restart policy is one of no, on-failure, on-failure:N and always".into()),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { most: None } => f.write_str("on-failure"),
            Self::OnFailure { most: Some(most) } => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in ["no", "on-failure", "on-failure:3", "always"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "never",
            "on-failure:",
            "on-failure:0",
            "on-failure:-1",
            "always:2",
        ] {
            assert!(text.parse::<RestartPolicy>().is_err(), "{text}");
        }
    }
}
