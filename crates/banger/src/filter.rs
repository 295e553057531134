//! `--filter KEY=VALUE`: which VMs are meant. Several filters must all fit.

use banger_api::{VmState, VmView};
use std::str::FromStr;

/// Which VMs are meant.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Filters {
    /// Only VMs that fit: state=STATE, label=KEY, label=KEY=VALUE, image=IMAGE or name=PATTERN
    /// (with * and ?); may be given several times, and all must fit
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<Filter>,
}

impl Filters {
    /// Whether all of them fit the VM.
    pub(crate) fn fits(&self, vm: &VmView) -> bool {
        self.filters.iter().all(|filter| filter.fits(vm))
    }

    /// Whether one of them names a state.
    pub(crate) fn by_state(&self) -> bool {
        let is_state = |filter: &Filter| matches!(filter, Filter::State(_));
        self.filters.iter().any(is_state)
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    State(VmState),
    Label(String, Option<String>),
    Image(String),
    Name(String),
}

const STATES: [VmState; 7] = [
    VmState::Created,
    VmState::Starting,
    VmState::Running,
    VmState::Stopping,
    VmState::Stopped,
    VmState::Crashed,
    VmState::Removing,
];

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "a filter is one of state=STATE, label=KEY, label=KEY=VALUE, \
             image=IMAGE and name=PATTERN";
        let (key, value) = text.split_once('=').ok_or(FORM)?;
        if value.is_empty() {
            return Err(format!("{key}= has no value; {FORM}"));
        }
        match key {
            "state" => parse_state(value).map(Self::State),
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            }),
            "image" => Ok(Self::Image(value.to_owned())),
            "name" => Ok(Self::Name(value.to_owned())),
            other => Err(format!("there is no filter {other:?}; {FORM}")),
        }
    }
}

fn parse_state(text: &str) -> Result<VmState, String> {
    let found = STATES.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| {
        let known: Vec<_> = STATES.iter().map(|state| state.as_str()).collect();
        format!("there is no state {text:?}; there are {}", known.join(", "))
    })
}

impl Filter {
    fn fits(&self, vm: &VmView) -> bool {
        match self {
            Self::State(state) => vm.state == *state,
            Self::Label(key, None) => vm.labels.contains_key(key),
            Self::Label(key, Some(value)) => vm.labels.get(key) == Some(value),
            Self::Image(image) => {
                let digest = vm.image_digest.as_str();
                let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
                let is_prefix = |whole: &str| image.len() >= 6 && whole.starts_with(image.as_str());
                vm.image == *image || is_prefix(digest) || is_prefix(hex)
            }
            Self::Name(pattern) => is_like(vm.name.as_str(), pattern),
        }
    }
}

/// Whether `text` fits `pattern`, in which `*` is any text and `?` any character.
pub(crate) fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) =
        (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut next) = (0, 0);
    // Where the last star stands, and the text up to which it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(next) {
            Some('*') => {
                star = Some((next, at));
                next += 1;
            }
            Some(&c) if c == '?' || c == text[at] => {
                at += 1;
                next += 1;
            }
            _ => {
                let Some((star_at, reached)) = star else {
                    return false;
                };
                star = Some((star_at, reached + 1));
                at = reached + 1;
                next = star_at + 1;
            }
        }
    }
    pattern[next..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (text, pattern, fits) in [
            ("dev", "dev", true),
            ("dev", "d*", true),
            ("dev", "*", true),
            ("dev", "*v", true),
            ("dev", "d?v", true),
            ("dev", "d?", false),
            ("dev", "*x*", false),
            ("build-12-box", "build-*-box", true),
            ("build-12-bo", "build-*-box", false),
            ("aab", "*ab", true),
            ("", "*", true),
            ("dev", "", false),
        ] {
            assert_eq!(is_like(text, pattern), fits, "{text:?} {pattern:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_told_what_there_is() {
        for (text, told) in [
            ("colour=red", "image=IMAGE and name=PATTERN"),
            ("state", "state=STATE"),
            ("state=asleep", "created, starting, running"),
            ("label=", "has no value"),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(
            "label=team=a=b".parse(),
            Ok(Filter::Label("team".into(), Some("a=b".into())))
        );
    }
}
