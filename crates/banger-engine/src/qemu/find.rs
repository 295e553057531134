//! Finds QEMU and reads its exact version.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::EngineError;
use crate::process::Process;

const PROGRAM: &str = "qemu-system-x86_64";

/// Where distributions and local builds put it, before PATH is asked.
const DIRS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// Where distributions put a small firmware that starts a PVH kernel 0.1 s earlier than
/// SeaBIOS does under emulation.
const QBOOT: [&str; 3] = [
    "/usr/share/qemu/qboot.rom",
    "/usr/share/seabios/qboot.rom",
    "/usr/share/qboot/qboot.rom",
];

/// How long the program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u16,
    minor: u16,
    micro: u16,
}

impl Version {
    /// The oldest that is known to work.
    pub(crate) const OLDEST: Self = Self {
        major: 7,
        minor: 2,
        micro: 0,
    };

    /// Whether it is not older than that.
    pub(crate) fn is_supported(self) -> bool {
        self >= Self::OLDEST
    }

    /// Reads the first line of `--version`.
    fn parse(output: &str) -> Option<Self> {
        let rest = output.strip_prefix("QEMU emulator version ")?;
        let text = rest
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

/// Finds the program and asks its version. Blocks for some 20 ms, at most 10 s.
pub(crate) fn find() -> Result<(PathBuf, Version), EngineError> {
    let path = std::env::var_os("PATH");
    find_in(&DIRS.map(Path::new), path.as_deref())
}

fn find_in(dirs: &[&Path], path: Option<&OsStr>) -> Result<(PathBuf, Version), EngineError> {
    let missing = |reason: String| EngineError::Missing {
        program: PROGRAM,
        reason,
        fix: "install it: sudo apt-get install qemu-system-x86".into(),
    };
    let from_path = path
        .into_iter()
        .flat_map(std::env::split_paths)
        .filter(|dir| dir.is_absolute());
    let program = dirs
        .iter()
        .map(|dir| dir.to_path_buf())
        .chain(from_path)
        .map(|dir| dir.join(PROGRAM))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
        .ok_or_else(|| missing("it is not installed".into()))?;
    let output = ask_version(&program)
        .map_err(|error| missing(format!("{program:?} does not start ({error})")))?;
    let version = Version::parse(&output).ok_or_else(|| {
        let said: String = output.chars().take(80).collect();
        missing(format!("{program:?} says {said:?} for its version"))
    })?;
    Ok((program, version))
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
        stdout.take(4096).read_to_string(&mut output)?;
    }
    child.wait()?;
    Ok(output)
}

/// The small firmware, where it is installed.
pub(crate) fn qboot() -> Option<PathBuf> {
    QBOOT.map(PathBuf::from).into_iter().find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn reads_the_versions_that_distributions_write() {
        for (text, shown) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright",
                "7.2.22",
            ),
            ("QEMU emulator version 9.1.2 (qemu-9.1.2-1.fc41)", "9.1.2"),
            ("QEMU emulator version 10.0.0\n", "10.0.0"),
        ] {
            let version = Version::parse(text).unwrap();
            assert_eq!(version.to_string(), shown);
            assert!(version.is_supported());
        }
        let old = Version::parse("QEMU emulator version 6.2.0 (Debian)").unwrap();
        assert!(!old.is_supported());
        assert_eq!(Version::parse("QEMU emulator version x"), None);
        assert_eq!(Version::parse("bash: oops"), None);
    }

    #[test]
    fn a_missing_or_strange_qemu_is_named_with_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let error = find_in(&[dir.path()], Some(OsStr::new("relative:"))).unwrap_err();
        assert!(error.to_string().contains("not installed"), "{error}");
        assert!(error.fix().unwrap().contains("qemu-system-x86"));
        let fake = dir.path().join(PROGRAM);
        std::fs::write(&fake, "#!/bin/sh\necho strange\n").unwrap();
        std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = find_in(&[], Some(dir.path().as_os_str())).unwrap_err();
        assert!(error.to_string().contains("strange"), "{error}");
    }
}
