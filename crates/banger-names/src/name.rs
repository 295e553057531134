//! The names that users give: of VMs, images and kernels.

use banger_ids::{InvalidName, text_type};
use serde::{Deserialize, Serialize};

/// A VM's name: one DNS label in lower case that cannot be mistaken for an id, an option
/// or a name that means something else to the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

/// An image's tag, as `debian` or `team/web:2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// A kernel's name, as `6.1.0-40-cloud-amd64`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelName(String);

text_type!(VmName);
text_type!(Tag);
text_type!(KernelName);

/// Names that resolvers, browsers and proxies treat specially.
const RESERVED_VM_NAMES: [&str; 6] = ["localhost", "local", "wpad", "isatap", "gateway", "banger"];

impl VmName {
    /// Parses 1 to 63 of `a-z 0-9 -`, beginning with a letter and not ending with `-`;
    /// refuses reserved names, `xn--` labels and anything of the shape of a VM id.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refuse = |rule| Err(InvalidName::new("VM name", text, rule));
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.len() > 63 {
            return refuse("is longer than 63 characters");
        }
        if !text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        {
            return refuse("has characters other than a-z, 0-9 and -");
        }
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) || text.ends_with('-') {
            return refuse("does not begin with a letter and end with a letter or digit");
        }
        if text.starts_with("vm-") || text.starts_with("xn--") {
            return refuse("begins with a reserved prefix (vm-, xn--)");
        }
        if RESERVED_VM_NAMES.contains(&text) {
            return refuse("is reserved");
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// Parses parts of `a-z 0-9 . _ -` joined by `/`, at most 128 characters, with an
    /// optional `:version`; every part begins with a letter or digit.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refuse = |rule| Err(InvalidName::new("image tag", text, rule));
        if text.is_empty() || text.len() > 128 {
            return refuse("is not 1 to 128 characters long");
        }
        let (path, version) = match text.split_once(':') {
            Some((path, version)) => (path, Some(version)),
            None => (text, None),
        };
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        };
        if !path.split('/').all(is_part) || !version.is_none_or(is_part) {
            return refuse("is not of the form name[/name][:version] in a-z, 0-9, . _ -");
        }
        if path == "sha256" {
            return refuse("has the form of a digest");
        }
        Ok(Self(text.to_owned()))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KernelName {
    /// Parses 1 to 64 of `a-z A-Z 0-9 . _ + -`, beginning with a letter or digit.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refuse = |rule| Err(InvalidName::new("kernel name", text, rule));
        if text.is_empty() || text.len() > 64 {
            return refuse("is not 1 to 64 characters long");
        }
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-'))
        {
            return refuse("has characters other than a-z, A-Z, 0-9, . _ + -");
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_name_accepts_labels() {
        for good in ["dev", "a", "web-2", "a1"] {
            assert_eq!(
                VmName::parse(good).map(|n| n.as_str().to_owned()),
                Ok(good.to_owned())
            );
        }
    }

    #[test]
    fn vm_name_refuses_what_means_something_else() {
        for bad in [
            "",
            "-x",
            "x-",
            "1x",
            "localhost",
            "wpad",
            "github.com",
            "xn--a",
            "vm-12345678",
            "A",
            "$(x)",
            "-oProxyCommand=x",
            "a\n",
            "%h",
            "a b",
            "é",
        ] {
            assert!(VmName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(VmName::parse(&"a".repeat(64)).is_err());
    }

    #[test]
    fn tag_refuses_paths_and_escapes() {
        for good in ["debian", "team/web:2", "a.b_c-d"] {
            assert!(Tag::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "..",
            "a/../b",
            "/a",
            "a/",
            "a:",
            ":a",
            "a:b:c",
            "a\n",
            "\u{1b}[31m",
            "A",
            "sha256:ab",
            "-a",
        ] {
            assert!(Tag::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kernel_name_refuses_paths() {
        assert!(KernelName::parse("6.1.0-40-cloud-amd64").is_ok());
        for bad in ["", ".", "..", "a/b", "-a", "a b", "a\n"] {
            assert!(KernelName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
