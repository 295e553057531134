//! apt, made to work in a private directory: it verifies the archive's signatures and hashes for us
//! and touches nothing of the host's own package state.

use crate::ImagesError;
use crate::child::{Job, Line};
use crate::progress::{ProgressSink, Step};
use crate::source::DebianSource;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How apt begins its machine-readable progress lines.
const STATUS: &str = "dlstatus:";

/// A private apt, below one directory.
#[derive(Debug)]
pub(crate) struct PrivateApt {
    suite: String,
    directory: PathBuf,
}

/// What `apt-get update` is to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    /// Only the signed release files: what there is, how old it is, who says so.
    Releases,
    /// The package lists too.
    Packages,
}

impl PrivateApt {
    /// Lays out a new `directory` for these sources.
    pub(crate) fn create(directory: PathBuf, source: &DebianSource) -> Result<Self, ImagesError> {
        let text = directory.to_string_lossy();
        if text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
            return Err(ImagesError::refused(
                text.into_owned(),
                "apt cannot work below a directory with quotes, backslashes or control characters in its name",
            ));
        }
        for part in [
            "etc",
            "state/lists/partial",
            "cache/archives/partial",
            "log",
            "debs",
        ] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(ImagesError::io("create", &path))?;
        }
        let apt = Self {
            suite: source.suite().to_owned(),
            directory,
        };
        for (name, content) in [
            ("status", String::new()),
            ("etc/debian.sources", source.to_deb822()),
            ("apt.conf", apt.configuration()?),
        ] {
            let path = apt.directory.join(name);
            fs::write(&path, content).map_err(ImagesError::io("write", &path))?;
        }
        Ok(apt)
    }

    /// The whole configuration. `Dir::Etc` is a directory with only our sources in it, so neither
    /// the host's trusted keys, preferences, hooks nor options are read.
    fn configuration(&self) -> Result<String, ImagesError> {
        let at = |part: &str| format!("\"{}\"", self.directory.join(part).display());
        let options = [
            ("APT::Architecture", format!("\"{}\"", architecture()?)),
            ("APT::Sandbox::User", "\"root\"".into()),
            ("APT::Update::Error-Mode", "\"any\"".into()),
            ("Acquire::AllowInsecureRepositories", "\"false\"".into()),
            ("Acquire::AllowWeakRepositories", "\"false\"".into()),
            ("Acquire::Check-Date", "\"true\"".into()),
            ("Acquire::Check-Valid-Until", "\"true\"".into()),
            ("Acquire::Languages", "\"none\"".into()),
            ("Acquire::Retries", "\"3\"".into()),
            ("Dir::Cache", at("cache")),
            ("Dir::Etc", at("etc")),
            ("Dir::Etc::main", "\"/dev/null\"".into()),
            ("Dir::Etc::parts", "\"/dev/null\"".into()),
            ("Dir::Etc::sourcelist", at("etc/debian.sources")),
            ("Dir::Etc::sourceparts", "\"/dev/null\"".into()),
            ("Dir::Etc::trusted", "\"/dev/null\"".into()),
            ("Dir::Etc::trustedparts", "\"/dev/null\"".into()),
            ("Dir::Log", at("log")),
            ("Dir::State", at("state")),
            ("Dir::State::status", at("status")),
        ];
        Ok(options
            .map(|(key, value)| format!("{key} {value};\n"))
            .concat())
    }

    /// Fetches and verifies the lists.
    pub(crate) fn update(&self, lists: Lists, sink: &dyn ProgressSink) -> Result<(), ImagesError> {
        let mut args = vec!["update"];
        if lists == Lists::Releases {
            args.extend([
                "-o",
                "Acquire::IndexTargets::deb::Packages::DefaultEnabled=false",
            ]);
        }
        let mut step = Step::begin(sink, "update package lists", "asking the mirror", None);
        let result = self.apt_get("update the package lists", &args, &mut step);
        result.map_err(|error| match error {
            ImagesError::Command { stderr, .. } if is_about_trust(&stderr) => {
                ImagesError::Verification { reason: stderr }
            }
            ImagesError::Command { stderr, .. } if stderr.contains(NO_RELEASE) => {
                ImagesError::NoSource {
                    suite: self.suite.clone(),
                    reason: stderr,
                }
            }
            other => other,
        })
    }

    /// The package that `package` depends on whose name begins with `prefix`: what a metapackage
    /// stands for at the moment.
    pub(crate) fn dependency(
        &self,
        package: &str,
        prefix: &str,
        sink: &dyn ProgressSink,
    ) -> Result<String, ImagesError> {
        let mut found = None;
        let job = self.job(
            "look up the kernel package",
            "apt-cache",
            &["depends", "--no-recommends", "--no-suggests", package],
        );
        job.run(None, sink, &mut |line| {
            if let Line::Stdout(text) = line
                && let Some(name) = text.trim().strip_prefix("Depends: ")
                && name.starts_with(prefix)
                && is_package_name(name)
            {
                found.get_or_insert(name.to_owned());
            }
        })?;
        found.ok_or_else(|| {
            ImagesError::refused(
                package,
                format!("it depends on no package named {prefix}..."),
            )
        })
    }

    /// Downloads one package, and returns where it is.
    pub(crate) fn download(
        &self,
        package: &str,
        step_name: &str,
        sink: &dyn ProgressSink,
    ) -> Result<PathBuf, ImagesError> {
        let mut step = Step::begin(sink, step_name, package, None);
        self.apt_get("download the package", &["download", package], &mut step)?;
        let directory = self.directory.join("debs");
        let found = fs::read_dir(&directory)
            .map_err(ImagesError::io("list", &directory))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        found.ok_or_else(|| ImagesError::refused(package, "apt downloaded no package file"))
    }

    /// The date of the newest release file, in seconds since 1970.
    pub(crate) fn newest_release(&self) -> Result<u64, ImagesError> {
        let directory = self.directory.join("state/lists");
        let mut newest = None;
        for entry in fs::read_dir(&directory).map_err(ImagesError::io("list", &directory))? {
            let path = entry.map_err(ImagesError::io("list", &directory))?.path();
            if !path.to_string_lossy().ends_with("Release") {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(ImagesError::io("read", &path))?;
            let date = text.lines().find_map(|line| line.strip_prefix("Date: "));
            newest = newest.max(date.and_then(parse_date));
        }
        newest.ok_or_else(|| {
            ImagesError::refused(
                directory.display().to_string(),
                "no release file has a date",
            )
        })
    }

    /// The sources file.
    pub(crate) fn sources(&self) -> PathBuf {
        self.directory.join("etc/debian.sources")
    }

    fn apt_get(
        &self,
        what: &'static str,
        args: &[&str],
        step: &mut Step<'_>,
    ) -> Result<(), ImagesError> {
        let mut job = self.job(what, "apt-get", &["-q", "-o", "APT::Status-Fd=1"]);
        job.args.extend(args.iter().map(OsString::from));
        let sink = step.sink();
        job.run(None, sink, &mut |line| {
            if let Line::Stdout(text) = line {
                report(text, step);
            }
        })
    }

    fn job(&self, what: &'static str, program: &'static str, args: &[&str]) -> Job<'_> {
        Job {
            what,
            program,
            package: "apt",
            args: args.iter().map(OsString::from).collect(),
            env: vec![("APT_CONFIG", self.directory.join("apt.conf").into())],
            home: &self.directory,
            directory: self.directory.join("debs"),
            grace: Duration::from_secs(2),
        }
    }
}

/// Tells the step what a line of apt's says: `dlstatus:FILE:PERCENT:TEXT`, or `Get:1 URI ... [SIZE]`.
fn report(line: &str, step: &mut Step<'_>) {
    if let Some(status) = line.strip_prefix(STATUS) {
        let percent = status.split(':').nth(1).and_then(|p| p.parse::<f64>().ok());
        if let Some(percent) = percent {
            step.percent(percent);
        }
    } else if line.starts_with("Get:") {
        let words: Vec<&str> = line.split_whitespace().skip(2).collect();
        let text: String = words
            .join(" ")
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        step.detail(text, None, None);
    }
}

/// Debian's name for the host's architecture.
pub(crate) fn architecture() -> Result<&'static str, ImagesError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        other => Err(ImagesError::Unsupported {
            what: "get Debian packages",
            reason: format!("this machine is {other}; only x86_64 is supported so far"),
            fix: "use an x86_64 machine".into(),
        }),
    }
}

/// What apt says of a mirror that has no such release at all. It refuses to use it then.
const NO_RELEASE: &str = "does not have a Release file";

/// Whether apt failed because of signatures, hashes or dates rather than the network.
fn is_about_trust(stderr: &str) -> bool {
    [
        "is not signed",
        "GPG error",
        "NO_PUBKEY",
        "BADSIG",
        "EXPKEYSIG",
        "Hash Sum mismatch",
        "is not valid yet",
        "is expired",
        "isn't valid",
        "no longer signed",
        "Clearsigned file",
    ]
    .iter()
    .any(|sign| stderr.contains(sign))
}

pub(crate) fn is_package_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'+' | b'-'))
}

/// Parses a release file's date, as `Sat, 11 Jul 2026 10:16:37 UTC`, to seconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "UTC" | "GMT" | "+0000"] = words.as_slice() else {
        return None;
    };
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = 1 + u64::try_from(months.iter().position(|name| name == month)?).ok()?;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let parts: Vec<u64> = time
        .split(':')
        .map_while(|part| part.parse().ok())
        .collect();
    let [hours, minutes, seconds] = parts.as_slice() else {
        return None;
    };
    let is_sane = (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && *hours < 24
        && *minutes < 60
        && *seconds < 61;
    // Days from civil, with years that begin in March so that leap days come last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    is_sane.then(|| (days - 719_468) * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_release_dates() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Sat, 11 Jul 2026 10:16:37 UTC", 1_783_764_997),
            ("Thu, 29 Feb 2024 23:59:59 UTC", 1_709_251_199),
        ] {
            assert_eq!(parse_date(text), Some(seconds), "{text}");
        }
        for bad in [
            "",
            "yesterday",
            "Sat, 11 Jul 2026 10:16 UTC",
            "Sat, 99 Jul 2026 10:16:37 UTC",
            "Sat, 11 Jul 1 10:16:37 UTC",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn package_names_are_not_options_or_paths() {
        assert!(is_package_name("linux-image-6.1.0-40-cloud-amd64"));
        for bad in ["", "-o", "a/b", "a b", "a=1", "../x", "A"] {
            assert!(!is_package_name(bad), "{bad:?}");
        }
    }
}
