//! Where Debian packages come from: the archive that the host itself uses, or a mirror that the user
//! names, with the keys that must have signed it.

use crate::ImagesError;
use std::fs;
use std::path::{Path, PathBuf};

/// Where apt keeps a host's sources.
const APT_DIR: &str = "/etc/apt";
/// Debian's own keys, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names of Debian's releases: an entry for one of these is Debian's archive, not a third party's.
const CODENAMES: [&str; 10] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "sid",
];

/// A Debian release and the archive, or archives, that it is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianSource {
    suite: String,
    keyring: PathBuf,
    archives: Vec<Archive>,
}

/// One archive and the suites taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    uri: String,
    suites: Vec<String>,
}

/// One entry of a host's sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<PathBuf>,
}

impl DebianSource {
    /// The archive for `suite` (as `bookworm`): `mirror` if given, else the one that the host's own
    /// apt sources name for Debian, with its security archive.
    pub fn detect(mirror: Option<&str>, suite: &str) -> Result<Self, ImagesError> {
        Self::detect_in(Path::new(APT_DIR), mirror, suite)
    }

    /// [`DebianSource::detect`] with the host's sources read from `apt_dir`.
    pub fn detect_in(
        apt_dir: &Path,
        mirror: Option<&str>,
        suite: &str,
    ) -> Result<Self, ImagesError> {
        check_suite(suite)?;
        let entries = if mirror.is_some() {
            Vec::new()
        } else {
            host_entries(apt_dir)
        };
        let (archives, signed_by) = match mirror {
            Some(uri) => (vec![mirror_archive(uri, suite)?], None),
            None => host_archives(&entries, suite)?,
        };
        let keyring = signed_by.unwrap_or_else(|| KEYRING.into());
        let source = Self {
            suite: suite.to_owned(),
            keyring: PathBuf::new(),
            archives,
        };
        source.with_keyring(&keyring)
    }

    /// The same archives, to be signed by the keys in `keyring`.
    pub fn with_keyring(mut self, keyring: &Path) -> Result<Self, ImagesError> {
        let text = keyring.to_string_lossy();
        let is_plain = keyring.is_absolute()
            && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        if !is_plain || !keyring.is_file() {
            return Err(ImagesError::NoSource {
                suite: self.suite,
                reason: format!(
                    "the keyring {keyring:?} is not there (package debian-archive-keyring)"
                ),
            });
        }
        self.keyring = keyring.to_owned();
        Ok(self)
    }

    /// The release, as `bookworm`.
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// The archives and suites, for display, as `debian bookworm from URI`.
    pub fn describe(&self) -> String {
        let uris: Vec<&str> = self.archives.iter().map(|a| a.uri.as_str()).collect();
        format!("debian {} from {}", self.suite, uris.join(" and "))
    }

    /// As a deb822 sources file.
    pub(crate) fn to_deb822(&self) -> String {
        self.archives
            .iter()
            .map(|archive| {
                format!(
                    "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {}\n",
                    archive.uri,
                    archive.suites.join(" "),
                    self.keyring.display(),
                )
            })
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn check_suite(suite: &str) -> Result<(), ImagesError> {
    let is_name = suite.starts_with(|c: char| c.is_ascii_lowercase())
        && suite.len() <= 32
        && suite
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if is_name {
        return Ok(());
    }
    Err(ImagesError::NoSource {
        suite: suite.to_owned(),
        reason: "it is not the name of a release (a-z, 0-9, -)".into(),
    })
}

/// Whether a text may stand as a URI in a sources file.
fn is_uri(text: &str) -> bool {
    let rest = ["http://", "https://", "file:/"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty())
        && text.len() <= 1024
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(
                    b,
                    b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'%' | b'@' | b'+' | b'=' | b','
                )
        })
}

/// What a mirror that the user names is asked for. A mirror on the network has all of a release; a
/// local one may have been made for one suite.
fn mirror_archive(uri: &str, suite: &str) -> Result<Archive, ImagesError> {
    if !is_uri(uri) {
        return Err(ImagesError::NoSource {
            suite: suite.to_owned(),
            reason: format!(
                "the mirror {uri:?} is not an http, https or file URI without spaces, quotes or brackets"
            ),
        });
    }
    let is_rolling = matches!(suite, "sid" | "unstable");
    let mut suites = vec![suite.to_owned()];
    if !uri.starts_with("file:") && !is_rolling {
        suites.push(format!("{suite}-updates"));
    }
    Ok(Archive {
        uri: uri.to_owned(),
        suites,
    })
}

/// The host's Debian archive and, if it has one, its security archive.
fn host_archives(
    entries: &[Entry],
    suite: &str,
) -> Result<(Vec<Archive>, Option<PathBuf>), ImagesError> {
    let usable = |entry: &&Entry| entry.components.iter().any(|name| name == "main");
    let uri_of = |entry: &Entry, is_security: bool| {
        entry
            .uris
            .iter()
            .find(|uri| is_uri(uri) && is_security_uri(uri) == is_security)
            .cloned()
    };
    let base = entries
        .iter()
        .filter(usable)
        .filter(|entry| entry.suites.iter().any(|s| CODENAMES.contains(&s.as_str())))
        .find_map(|entry| uri_of(entry, false).map(|uri| (uri, entry)));
    let Some((uri, entry)) = base else {
        return Err(ImagesError::NoSource {
            suite: suite.to_owned(),
            reason: "this host's apt sources name no Debian archive".into(),
        });
    };
    let has_updates = entries
        .iter()
        .any(|entry| entry.suites.iter().any(|s| s.ends_with("-updates")));
    let is_rolling = matches!(suite, "sid" | "unstable");
    let mut suites = vec![suite.to_owned()];
    if has_updates && !is_rolling {
        suites.push(format!("{suite}-updates"));
    }
    let mut archives = vec![Archive { uri, suites }];
    let security = entries
        .iter()
        .filter(usable)
        .filter(|entry| entry.suites.iter().any(|s| s.ends_with("-security")))
        .find_map(|entry| uri_of(entry, true));
    if let Some(uri) = security.filter(|_| !is_rolling) {
        archives.push(Archive {
            uri,
            suites: vec![format!("{suite}-security")],
        });
    }
    Ok((archives, entry.signed_by.clone()))
}

fn is_security_uri(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("-security")
}

/// All entries of a host's apt sources, in apt's order. Files that cannot be read are passed over,
/// as are entries that make no sense: they were not written for us.
fn host_entries(apt_dir: &Path) -> Vec<Entry> {
    let mut files = vec![apt_dir.join("sources.list")];
    let mut parts: Vec<PathBuf> = fs::read_dir(apt_dir.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    parts.sort();
    files.extend(parts);
    let mut entries = Vec::new();
    for file in files {
        let is_small = fs::metadata(&file).is_ok_and(|m| m.is_file() && m.len() <= 1 << 20);
        let Some(text) = is_small.then(|| fs::read_to_string(&file).ok()).flatten() else {
            continue;
        };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => entries.extend(text.lines().filter_map(parse_one_line)),
            Some("sources") => entries.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    entries
}

/// Parses `deb [option=value ...] URI SUITE COMPONENT...`.
fn parse_one_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    rest = rest.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, tail) = options.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .filter(|path| path.starts_with('/') && !path.contains(','))
            .map(PathBuf::from);
        rest = tail;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Entry {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by,
    })
}

/// Parses the stanzas of a deb822 file; those that are disabled or have no binary packages are not returned.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(stanza_entry(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn stanza_entry(fields: &[(String, String)]) -> Option<Entry> {
    let words = |wanted: &str| -> Vec<String> {
        fields
            .iter()
            .filter(|(name, _)| name == wanted)
            .flat_map(|(_, value)| value.split_whitespace().map(str::to_owned))
            .collect()
    };
    let is_disabled = words("enabled").first().is_some_and(|value| value == "no");
    if is_disabled || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    // A key may also stand in the field itself; then the default keyring must do.
    let signed_by = match words("signed-by").as_slice() {
        [path] if path.starts_with('/') => Some(PathBuf::from(path)),
        _ => None,
    };
    Some(Entry {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by,
    })
}

#[cfg(test)]
mod tests;
