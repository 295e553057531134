//! Finds the programs that engines are, and reads their exact versions.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::EngineError;
use crate::process::Process;

/// How long a program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// The most that is read of what it says, in bytes.
const VERSION_TEXT: u64 = 4096;

/// A program's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u16,
    minor: u16,
    micro: u16,
}

impl Version {
    pub(crate) const fn new(major: u16, minor: u16, micro: u16) -> Self {
        Self {
            major,
            minor,
            micro,
        }
    }

    /// Reads three numbers at the beginning of the text, as in `7.2.22 (Debian`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text
            .split(|c: char| c != '.' && !c.is_ascii_digit())
            .next()?;
        let mut parts = text.split('.').map(str::parse);
        let mut next = || parts.next()?.ok();
        Some(Self {
            major: next()?,
            minor: next()?,
            micro: next()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A program on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
}

/// Why there is no usable program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) program: &'static str,
    pub(crate) reason: String,
    pub(crate) fix: String,
}

impl From<Missing> for EngineError {
    fn from(missing: Missing) -> Self {
        Self::Missing {
            program: missing.program,
            reason: missing.reason,
            fix: missing.fix,
        }
    }
}

/// A program to look for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Its file's name.
    pub(crate) program: &'static str,
    /// What stands before the number in what it says for `--version`.
    pub(crate) before_version: &'static str,
    /// What a user can do who does not have it.
    pub(crate) fix: &'static str,
}

impl Wanted {
    /// Finds the program in `dirs`, then in the absolute ones of `path`, and asks its
    /// version. Blocks for some 20 ms, at most 10 s.
    pub(crate) fn find(self, dirs: &[PathBuf], path: Option<&OsStr>) -> Result<Found, Missing> {
        let from_path = path.into_iter().flat_map(std::env::split_paths);
        let program = dirs
            .iter()
            .cloned()
            .chain(from_path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(self.program))
            .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
            .ok_or_else(|| self.missing("it is not installed"))?;
        let output = ask_version(&program)
            .map_err(|error| self.missing(format!("{program:?} does not start ({error})")))?;
        let version = output
            .strip_prefix(self.before_version)
            .and_then(Version::parse);
        match version {
            Some(version) => Ok(Found {
                path: program,
                version,
            }),
            None => {
                let said: String = output.chars().take(80).collect();
                Err(self.missing(format!("{program:?} says {said:?} for its version")))
            }
        }
    }

    pub(crate) fn missing(self, reason: impl Into<String>) -> Missing {
        Missing {
            program: self.program,
            reason: reason.into(),
            fix: self.fix.into(),
        }
    }
}

fn ask_version(program: &Path) -> io::Result<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let in_time = Process::of_child(child.id())
        .map_err(io::Error::other)
        .and_then(|process| process.ends_within(VERSION_LIMIT));
    if !matches!(in_time, Ok(true)) {
        child.kill()?;
    }
    let mut output = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(VERSION_TEXT).read_to_string(&mut output)?;
    }
    child.wait()?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const WANTED: Wanted = Wanted {
        program: "a-vmm",
        before_version: "A VMM v",
        fix: "install it: sudo apt-get install a-vmm",
    };

    fn fake(dir: &Path, says: &str) {
        let program = dir.join(WANTED.program);
        std::fs::write(&program, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_missing_or_strange_program_is_named_with_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let missing = WANTED
            .find(&dirs, Some(OsStr::new("relative:")))
            .unwrap_err();
        assert!(missing.reason.contains("not installed"), "{missing:?}");
        let error = EngineError::from(missing);
        assert!(error.fix().unwrap().contains("a-vmm"));
        for strange in ["strange", "A VMM v", "A VMM v1.2", "B VMM v1.2.3"] {
            fake(dir.path(), strange);
            let missing = WANTED.find(&[], Some(dir.path().as_os_str())).unwrap_err();
            assert!(missing.reason.contains(strange), "{missing:?}");
        }
        fake(dir.path(), "A VMM v1.2.3-dirty\nmore");
        let found = WANTED.find(&dirs, None).unwrap();
        assert_eq!(found.version, Version::new(1, 2, 3));
        assert_eq!(found.path, dir.path().join("a-vmm"));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::new(1, 10, 0) > Version::new(1, 9, 9));
        assert_eq!(Version::parse("1.12.1").unwrap().to_string(), "1.12.1");
        assert_eq!(Version::parse("1.99999999.1"), None);
    }
}
