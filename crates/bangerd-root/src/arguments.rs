//! The command line, and the directories it names.

use std::ffi::OsString;

use banger_priv::{Refusal, RefusalKind};
use banger_sys::dirs::{Dir, PathError};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::helper::{Config, Helper, Roots};
use crate::ledger::Ledger;
use crate::refusal::{failed, refuse};

/// What the helper is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To serve.
    Serve,
    /// To remove everything that it made.
    Teardown,
}

/// The command line, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) mode: Mode,
    /// A socket that the helper was started with, in the place of systemd's.
    pub(crate) fd: Option<i32>,
    owner: u32,
    run: String,
    state: String,
    programs: String,
    files: Vec<String>,
}

impl Arguments {
    /// `[teardown] [--owner UID] [--fd N] [--run DIR] [--state DIR] [--programs DIR]
    /// [--files DIR]...`
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Refusal> {
        let wrong = |text: String| refuse(RefusalKind::Invalid, format!("start: {text}"));
        let mut found = Self {
            mode: Mode::Serve,
            fd: None,
            owner: 0,
            run: "/run/bangerd-root".to_owned(),
            state: "/var/lib/bangerd-root".to_owned(),
            programs: "/usr/lib/banger".to_owned(),
            files: Vec::new(),
        };
        let texts: Result<Vec<String>, OsString> = arguments.map(OsString::into_string).collect();
        let texts = texts.map_err(|text| wrong(format!("{text:?} is not UTF-8")))?;
        let mut texts = texts.into_iter();
        while let Some(name) = texts.next() {
            match name.as_str() {
                "teardown" => found.mode = Mode::Teardown,
                "--owner" | "--fd" | "--run" | "--state" | "--programs" | "--files" => {
                    let value = texts
                        .next()
                        .ok_or_else(|| wrong(format!("{name} of what")))?;
                    let bad = || wrong(format!("{name} {value:?} is not one"));
                    match name.as_str() {
                        "--owner" => found.owner = id(&value).ok_or_else(bad)?,
                        "--fd" => {
                            let fd = value.parse().ok().filter(|fd| *fd >= 0);
                            found.fd = Some(fd.ok_or_else(bad)?);
                        }
                        "--run" => found.run = value,
                        "--state" => found.state = value,
                        "--programs" => found.programs = value,
                        _ => found.files.push(value),
                    }
                }
                _ => return Err(wrong(format!("unknown argument {name:?}"))),
            }
        }
        if found.files.is_empty() {
            found.files = ["/var/lib/banger", "/run/banger"].map(str::to_owned).into();
        }
        Ok(found)
    }

    /// Opens the directories, alone: a second helper for the same ones is refused.
    pub(crate) fn open(&self) -> Result<Helper, Refusal> {
        let ledger = private(&self.run, "ledger")?;
        flock(&ledger, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => {
                let message = format!("start: another helper has {}", self.run);
                refuse(RefusalKind::Busy, message)
            }
            errno => failed("lock the ledger", &errno),
        })?;
        let config = Config {
            owner: self.owner,
            systemd: Dir::open("/run/systemd/system").is_ok(),
            roots: Roots {
                jail: private(&self.state, "jail")?,
                programs: self.programs.clone().into(),
                files: self.files.clone(),
            },
        };
        Ok(Helper::new(config, Ledger::load(ledger)?))
    }
}

/// A uid that can be somebody's. Root, who may ask anyway, stands for no other owner.
fn id(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse().ok().filter(|_| is_plain)?;
    (!matches!(id, 65_534 | u32::MAX)).then_some(id)
}

/// The directory `name`, root's alone, in `parent`, which must be root's to change. Either is made
/// if it is missing.
fn private(parent: &str, name: &str) -> Result<Dir, Refusal> {
    let own = geteuid().as_raw();
    let path = format!("{parent}/{name}");
    let open = || {
        let dir = open_or_create(parent)?;
        dir.verify(own, 0o022)?;
        let child = open_or_create(&path)?;
        child.verify(own, 0o077)?;
        Ok(child)
    };
    open().map_err(|error: PathError| failed(format!("open {path}"), &error))
}

/// By its whole path: a service's directories are mounts of their own.
fn open_or_create(path: &str) -> Result<Dir, PathError> {
    match (Dir::open(path), path.rsplit_once('/')) {
        (Err(error), Some((above, name))) if error.errno() == Some(Errno::NOENT) => {
            let above = if above.is_empty() { "/" } else { above };
            Dir::open(above)?.create_child(name, 0o700)
        }
        (opened, _) => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Arguments, Refusal> {
        Arguments::parse(texts.iter().map(OsString::from))
    }

    #[test]
    fn what_is_not_a_known_argument_is_refused() {
        let found = parse(&["--owner", "1000", "--fd", "0"]).unwrap();
        assert_eq!((found.owner, found.fd), (1000, Some(0)));
        assert_eq!(parse(&["teardown"]).unwrap().mode, Mode::Teardown);
        for bad in [
            &["--owner"][..],
            &["--owner", ""],
            &["--owner", "+1"],
            &["--owner", "-1"],
            &["--owner", "65534"],
            &["--owner", "4294967295"],
            &["--owner", "4294967296"],
            &["--owner", "root"],
            &["--fd", "-1"],
            &["--fd", "x"],
            &["--help"],
            &[""],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn directories_that_others_can_change_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().to_str().unwrap();
        let set = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        assert!(private(path, "jail").is_ok());
        for mode in [0o777, 0o770, 0o1777] {
            set(parent.path(), mode);
            assert!(private(path, "jail").is_err(), "{mode:o}");
        }
        set(parent.path(), 0o711);
        set(&parent.path().join("jail"), 0o750);
        assert!(private(path, "jail").is_err());
        std::os::unix::fs::symlink("jail", parent.path().join("link")).unwrap();
        assert!(private(path, "link").is_err());
    }
}
