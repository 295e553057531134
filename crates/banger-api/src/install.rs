//! What `banger system install` wrote down: whom the system's daemon serves, and where its
//! things are. Client and daemon read it; only root can have written it.

use crate::Dirs;
use banger_names::Digest;
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// An installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// banger's version.
    pub version: String,
    /// When it was made, in seconds since 1970.
    pub installed_unix: u64,
    /// Whom it serves.
    pub owner: Owner,
    /// Where its things are.
    pub paths: InstallPaths,
    /// The files that it wrote, and what they held then.
    pub files: BTreeMap<PathBuf, Digest>,
}

/// The one user whom an installation serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The user's name.
    pub name: String,
    /// The user's id, never 0.
    pub uid: u32,
}

/// Where an installation's things are; all absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallPaths {
    /// Its programs.
    pub programs: PathBuf,
    /// The daemon's socket and what lives no longer than it.
    pub runtime: PathBuf,
    /// Database, VM disks, logs, keys.
    pub state: PathBuf,
    /// Images and kernels.
    pub data: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
    /// The owner's configuration.
    pub config: PathBuf,
}

/// Why an installation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The file cannot be opened or read.
    #[error("read the installation {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody else than root could have written it, or it is no installation.
    #[error("use the installation {path:?}: it {fault}")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// `BANGER_MODE` asks for something that does not exist.
    #[error("use BANGER_MODE={0:?}: it is neither \"system\" nor \"rootless\"")]
    UnknownMode(String),
    /// `BANGER_MODE` asks for the system's daemon, and there is none for this user.
    #[error("use BANGER_MODE=system: no system daemon is installed for this user")]
    NotInstalled,
}

impl Install {
    /// Where it is written down.
    pub const FILE: &str = "/etc/banger/install.toml";

    /// The installation of this machine; `None` if there is none.
    pub fn read() -> Result<Option<Self>, InstallError> {
        Self::read_at(Path::new(Self::FILE), 0)
    }

    /// The installation that serves this process's user. `None` if there is none, and where
    /// `BANGER_HOME` or `BANGER_MODE=rootless` says that the user wants another daemon.
    pub fn of_this_user() -> Result<Option<Self>, InstallError> {
        let mode = env::var_os("BANGER_MODE").filter(|mode| !mode.is_empty());
        let mode = mode.map(|mode| mode.to_string_lossy().into_owned());
        let is_wanted = match mode.as_deref() {
            Some("rootless") => return Ok(None),
            Some("system") => true,
            None if env::var_os("BANGER_HOME").is_some() => return Ok(None),
            None => false,
            Some(other) => return Err(InstallError::UnknownMode(other.to_owned())),
        };
        let uid = rustix::process::geteuid().as_raw();
        match Self::read()?.filter(|install| install.owner.uid == uid) {
            None if is_wanted => Err(InstallError::NotInstalled),
            found => Ok(found),
        }
    }

    /// The directories of the system's daemon.
    pub fn dirs(&self) -> Dirs {
        let paths = self.paths.clone();
        Dirs {
            runtime: paths.runtime,
            state: paths.state,
            data: paths.data,
            cache: paths.cache,
            config: paths.config,
        }
    }

    /// The directories of the builder: a daemon that the owner runs outside the sandbox, which
    /// puts kernels and images where the system's daemon finds them. `own` are those of the
    /// owner's daemon without an installation; what the builder keeps to itself goes below them.
    pub fn builder_dirs(&self, own: Dirs) -> Dirs {
        Dirs {
            runtime: own.runtime.join("builder"),
            state: own.state.join("builder"),
            config: own.config,
            data: self.paths.data.clone(),
            cache: self.paths.cache.clone(),
        }
    }

    /// Reads the file at `path`, which must be `writer`'s, and its directory too. Follows no link
    /// in the last component and never blocks.
    fn read_at(path: &Path, writer: u32) -> Result<Option<Self>, InstallError> {
        let fail = |errno: rustix::io::Errno| InstallError::Io {
            path: path.to_owned(),
            source: errno.into(),
        };
        let refuse = |fault: String| InstallError::Unsafe {
            path: path.to_owned(),
            fault,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(refuse("is a symbolic link".into())),
            Err(errno) => return Err(fail(errno)),
        };
        let file = rustix::fs::fstat(&fd).map_err(fail)?;
        if FileType::from_raw_mode(file.st_mode) != FileType::RegularFile {
            return Err(refuse("is not a regular file".into()));
        }
        let parent = path.parent().unwrap_or(path);
        let directory = rustix::fs::stat(parent).map_err(fail)?;
        for (what, stat) in [("", file), ("is in a directory that ", directory)] {
            if stat.st_uid != writer {
                return Err(refuse(format!("{what}belongs to uid {}", stat.st_uid)));
            }
            if stat.st_mode & 0o022 != 0 {
                let mode = stat.st_mode & 0o7777;
                return Err(refuse(format!(
                    "{what}can be written by others (mode {mode:04o})"
                )));
            }
        }
        let mut text = String::new();
        std::fs::File::from(fd)
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(|source| InstallError::Io {
                path: path.to_owned(),
                source,
            })?;
        if text.len() as u64 > MAX_FILE {
            return Err(refuse(format!("is larger than {MAX_FILE} bytes")));
        }
        let install: Self = toml::from_str(&text)
            .map_err(|error| refuse(format!("says: {}", error.message().replace('\n', " "))))?;
        install.check().map_err(refuse)?;
        Ok(Some(install))
    }

    /// Says what in it cannot be.
    fn check(&self) -> Result<(), String> {
        if self.owner.uid == 0 {
            return Err("names root as the owner".into());
        }
        let paths = &self.paths;
        let named = [
            &paths.programs,
            &paths.runtime,
            &paths.state,
            &paths.data,
            &paths.cache,
            &paths.config,
        ];
        let is_plain = |path: &Path| {
            path.is_absolute()
                && path
                    .components()
                    .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        };
        match named
            .into_iter()
            .chain(self.files.keys())
            .find(|path| !is_plain(path))
        {
            Some(path) => Err(format!(
                "names {path:?}, which is not a plain absolute path"
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const GOOD: &str = r#"
version = "0.1.0"
installed_unix = 1795334400

[owner]
name = "dev"
uid = 1000

[paths]
programs = "/usr/lib/banger"
runtime = "/run/banger"
state = "/var/lib/banger/state"
data = "/var/lib/banger/data"
cache = "/var/cache/banger"
config = "/home/dev/.config/banger/config.toml"

[files]
"/usr/lib/banger/bangerd" = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
"#;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn read(path: &Path) -> Result<Option<Install>, String> {
        let me = rustix::process::geteuid().as_raw();
        Install::read_at(path, me).map_err(|error| error.to_string())
    }

    #[test]
    fn an_installation_is_read_and_a_missing_one_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let install = read(&write(temp.path(), "good", GOOD)).unwrap().unwrap();
        assert_eq!((install.owner.uid, install.files.len()), (1000, 1));
        assert_eq!(
            install.dirs().socket(),
            Path::new("/run/banger/bangerd.sock")
        );
        assert_eq!(read(&temp.path().join("none")), Ok(None));

        let own = Dirs {
            runtime: "/run/user/1000/banger".into(),
            state: "/home/dev/.local/state/banger".into(),
            data: "/home/dev/.local/share/banger".into(),
            cache: "/home/dev/.cache/banger".into(),
            config: "/home/dev/.config/banger/config.toml".into(),
        };
        let builder = install.builder_dirs(own.clone());
        assert_eq!(builder.data, install.dirs().data);
        assert_eq!(builder.cache, install.dirs().cache);
        assert_ne!(builder.socket(), own.socket());
        assert_ne!(builder.state, own.state);
    }

    #[test]
    fn an_installation_that_others_could_have_written_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let good = write(temp.path(), "good", GOOD);
        let says = |path: &Path, what: &str| {
            let error = read(path).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        let link = temp.path().join("link");
        symlink(&good, &link).unwrap();
        says(&link, "symbolic link");
        let fifo = temp.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
        says(&fifo, "regular file");
        let open = write(temp.path(), "open", GOOD);
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o664)).unwrap();
        says(&open, "written by others");
        says(
            &write(temp.path(), "large", &"#".repeat(70_000)),
            "larger than",
        );
        let error = Install::read_at(&good, 54321).unwrap_err().to_string();
        assert!(error.contains("belongs to uid"), "{error}");
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        says(&good, "is in a directory that can be written");
    }

    #[test]
    fn an_installation_that_cannot_be_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        for (from, to, what) in [
            ("uid = 1000", "uid = 0", "root"),
            ("uid = 1000", "uid = -1", "says"),
            ("uid = 1000", "uid = \"1000\"", "says"),
            ("uid = 1000", "uid = 1000\nhome = \"/\"", "home"),
            ("\"/run/banger\"", "\"run/banger\"", "absolute"),
            ("\"/run/banger\"", "\"/run/../tmp\"", "absolute"),
            ("sha256:", "sha1:", "says"),
            ("[files]", "[more]\n[files]", "more"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let error = read(&write(temp.path(), "bad", &text)).unwrap_err();
            assert!(error.contains(what), "{to}: {error}");
        }
    }
}
