//! The configuration fragment of the lean kernel: its lines, and whether each took effect.
//!
//! The kernel's own tool passes over an option that does not exist, or whose needs are not met,
//! without a word. So what came out is compared with what was asked, line by line.

use crate::ImagesError;
use std::collections::{BTreeMap, BTreeSet};

/// The fragment that is laid over an empty configuration.
pub(crate) const LEAN: &str = include_str!("../data/lean.config");
/// What the lean kernel's release ends in.
pub(crate) const SUFFIX: &str = "-lean";

/// How a file of options calls an option that is off.
const OFF: &str = "n";
/// How a line ends whose options later sources no longer have.
const GONE: &str = " | gone";
/// How many options that did not take effect are named.
const NAMED_MAX: usize = 12;

/// A fragment: lines that each have one or more forms, of which one must take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fragment(Vec<Wanted>);

/// What one line wants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// Options and values (`CONFIG_EXT4_FS`, `y`), the oldest release's name first.
    forms: Vec<(String, String)>,
    /// Whether the options may also not exist.
    may_be_gone: bool,
}

impl Fragment {
    /// Reads a fragment: options and comments, nothing else, no option twice.
    pub(crate) fn parse(text: &str) -> Result<Self, ImagesError> {
        let mut wanted = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |reason: &str| {
                let what = format!("kernel configuration line {}", index + 1);
                ImagesError::refused(what, format!("{line:?}: {reason}"))
            };
            let (forms, may_be_gone) = match line.strip_suffix(GONE) {
                Some(forms) => (forms, true),
                None => (line, false),
            };
            let forms = forms
                .split(" | ")
                .map(|form| parse_option(form).map(|(name, is)| (name.to_owned(), is.to_owned())))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| refuse("it is not CONFIG_NAME=y, =n, =number or =\"text\""))?;
            if !forms.iter().all(|(name, _)| seen.insert(name.clone())) {
                return Err(refuse("the option stands there twice"));
            }
            wanted.push(Wanted { forms, may_be_gone });
        }
        Ok(Self(wanted))
    }

    /// As the kernel's own tool reads it: every form a line. It passes over names that it does
    /// not know.
    pub(crate) fn to_config(&self) -> String {
        self.0
            .iter()
            .flat_map(|wanted| &wanted.forms)
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect()
    }

    /// Fails, naming them, if any line took no effect in `config`, the kernel's `.config`.
    pub(crate) fn check(&self, config: &str) -> Result<(), ImagesError> {
        let found: BTreeMap<&str, &str> = config.lines().filter_map(parse_setting).collect();
        let missed: Vec<String> = self
            .0
            .iter()
            .filter(|wanted| !wanted.took_effect(&found))
            .map(|wanted| wanted.describe(&found))
            .collect();
        if missed.is_empty() {
            return Ok(());
        }
        let more = missed.len().saturating_sub(NAMED_MAX);
        let mut names = missed[..missed.len() - more].join(", ");
        if more > 0 {
            names.push_str(&format!(" and {more} more"));
        }
        Err(ImagesError::refused(
            "kernel configuration",
            format!("these options did not take effect with this source: {names}"),
        ))
    }
}

impl Wanted {
    fn took_effect(&self, found: &BTreeMap<&str, &str>) -> bool {
        let is_gone = self.may_be_gone
            && !self
                .forms
                .iter()
                .any(|(name, _)| found.contains_key(name.as_str()));
        is_gone
            || self
                .forms
                .iter()
                .any(|(name, value)| found.get(name.as_str()).unwrap_or(&OFF) == value)
    }

    fn describe(&self, found: &BTreeMap<&str, &str>) -> String {
        let forms: Vec<String> = self
            .forms
            .iter()
            .map(|(name, value)| {
                let is = found.get(name.as_str()).unwrap_or(&OFF);
                format!("{name}={value} (it is {is})")
            })
            .collect();
        forms.join(" or ")
    }
}

/// What a line of a `.config` sets; what is off stands there as a comment.
fn parse_setting(line: &str) -> Option<(&str, &str)> {
    let off = line
        .strip_prefix("# ")
        .and_then(|rest| rest.strip_suffix(" is not set"));
    match off {
        Some(name) => Some((name, OFF)),
        None => parse_option(line),
    }
}

/// The option that a line sets.
fn parse_option(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let rest = name.strip_prefix("CONFIG_")?;
    let is_name = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_text = value.len() >= 2
        && value.starts_with('"')
        && value.ends_with('"')
        && !value[1..value.len() - 1].contains(['"', '\\']);
    let is_value = matches!(value, "y" | "m" | OFF)
        || is_text
        || value.parse::<i64>().is_ok()
        || value
            .strip_prefix("0x")
            .is_some_and(|hex| u64::from_str_radix(hex, 16).is_ok());
    (is_name && is_value).then_some((name, value))
}

/// What a kernel of this release (`6.1.192-lean`) is called: `lean-6.1.192`.
pub(crate) fn kernel_name(release: &str) -> String {
    format!("lean-{}", release.strip_suffix(SUFFIX).unwrap_or(release))
}

/// Reads what the build says its release is.
pub(crate) fn parse_release(text: &str) -> Result<String, ImagesError> {
    let release = text.trim_end();
    let is_release = release.starts_with(|c: char| c.is_ascii_digit())
        && release.len() <= 48
        && release
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if is_release {
        return Ok(release.to_owned());
    }
    Err(ImagesError::refused(
        "kernel source",
        format!("{release:?} is not a release"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lean_fragment_is_whole_and_has_what_engines_and_agent_need() {
        let lean = Fragment::parse(LEAN).unwrap();
        let config = lean.to_config();
        let has = |line: &str| config.lines().any(|found| found == line);
        assert!(has(&format!("CONFIG_LOCALVERSION=\"{SUFFIX}\"")));
        assert!(has("CONFIG_MODULES=n"));
        for name in [
            "ACPI",
            "BLK_DEV_INITRD",
            "DEVTMPFS",
            "EXT4_FS",
            "HW_RANDOM_VIRTIO",
            "KEYBOARD_ATKBD",
            "OVERLAY_FS",
            "PVH",
            "SERIAL_8250_CONSOLE",
            "SERIO_I8042",
            "VIRTIO_BLK",
            "VIRTIO_CONSOLE",
            "VIRTIO_MMIO",
            "VIRTIO_NET",
            "VIRTIO_PCI",
            "VIRTIO_VSOCKETS",
            "VMGENID",
        ] {
            assert!(has(&format!("CONFIG_{name}=y")), "{name}");
        }
    }

    #[test]
    fn every_option_that_took_effect_passes() {
        let fragment =
            Fragment::parse("# why\nCONFIG_A=y\n\nCONFIG_B=n\nCONFIG_C=64\nCONFIG_D=\"x y\"\n")
                .unwrap();
        let config =
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\nCONFIG_D=\"x y\"\nCONFIG_E=y\n";
        fragment.check(config).unwrap();
        // An option that is not even mentioned is off too.
        fragment
            .check(&config.replace("# CONFIG_B is not set\n", ""))
            .unwrap();
    }

    #[test]
    fn options_without_effect_are_named_with_what_they_are() {
        let fragment = Fragment::parse("CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=64\n").unwrap();
        let error = fragment
            .check("CONFIG_B=y\nCONFIG_C=32\n")
            .unwrap_err()
            .to_string();
        for part in [
            "CONFIG_A=y (it is n)",
            "CONFIG_B=n (it is y)",
            "CONFIG_C=64 (it is 32)",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn one_form_of_a_line_is_enough() {
        let fragment =
            Fragment::parse("CONFIG_OLD=y | CONFIG_NEW=y\nCONFIG_ONCE=y | gone\n").unwrap();
        assert_eq!(
            fragment.to_config(),
            "CONFIG_OLD=y\nCONFIG_NEW=y\nCONFIG_ONCE=y\n"
        );
        fragment.check("CONFIG_OLD=y\nCONFIG_ONCE=y\n").unwrap();
        fragment.check("CONFIG_NEW=y\n").unwrap();
        let off = "CONFIG_NEW=y\n# CONFIG_ONCE is not set\n";
        let error = fragment.check(off).unwrap_err().to_string();
        assert!(error.contains("CONFIG_ONCE=y (it is n)"), "{error}");
        let error = fragment.check("").unwrap_err().to_string();
        assert!(
            error.contains("CONFIG_OLD=y (it is n) or CONFIG_NEW=y"),
            "{error}"
        );
    }

    #[test]
    fn fragment_refuses_what_is_no_option() {
        for bad in [
            "EXT4=y",
            "CONFIG_=y",
            "CONFIG_A",
            "CONFIG_A=yes",
            "CONFIG_A =y",
            "CONFIG_A=\"a\"b\"",
            "CONFIG_A=y\nCONFIG_A=n",
            "CONFIG_A=y | CONFIG_A=n",
            "CONFIG_A=y | absent",
            "CONFIG_A=y|CONFIG_B=y",
            " | gone",
            "# CONFIG_A is not set\nrubbish",
        ] {
            let error = Fragment::parse(bad).unwrap_err().to_string();
            assert!(error.contains("line"), "{bad}: {error}");
        }
    }

    #[test]
    fn kernels_are_named_by_their_version() {
        assert_eq!(kernel_name("6.1.192-lean"), "lean-6.1.192");
        assert_eq!(kernel_name("6.12-rc1"), "lean-6.12-rc1");
        assert_eq!(parse_release("6.1.192-lean\n").unwrap(), "6.1.192-lean");
        for bad in ["", "lean", "6.1/..", "6.1 2\n", "6.1\n7"] {
            assert!(parse_release(bad).is_err(), "{bad:?}");
        }
    }
}
