//! Where banger keeps things, and the check that the runtime directory is the user's alone.
//!
//! `BANGER_HOME` puts everything below one directory (for tests and for trying out);
//! otherwise the XDG directories are used, and `/tmp/banger-runtime-UID` where there is no
//! `XDG_RUNTIME_DIR`.

use rustix::fs::{FileType, Mode, OFlags};
use std::env;
use std::io;
use std::path::{Path, PathBuf};

/// The directories of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Sockets and what lives no longer than a VM's run; 0700.
    pub runtime: PathBuf,
    /// Database, VM disks, logs, keys.
    pub state: PathBuf,
    /// Images and kernels.
    pub data: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
}

/// Why the directories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirsError {
    /// Neither `HOME` nor `BANGER_HOME` is set.
    #[error("find the home directory: neither HOME nor BANGER_HOME is set to an absolute path")]
    NoHome,
    /// `BANGER_HOME` or `BANGER_CONFIG` would mean another place in another directory.
    #[error("use {name}={path:?}: it is not an absolute path")]
    Relative {
        /// The variable.
        name: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{verb} {path:?}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody else could read, write or replace it.
    #[error("use runtime directory {path:?}: it {fault}")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
}

impl Dirs {
    /// The directories that the environment names. Nothing is made or checked.
    pub fn from_env() -> Result<Self, DirsError> {
        let absolute = |name: &str| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        for name in ["BANGER_HOME", "BANGER_CONFIG"] {
            if let Some(path) = env::var_os(name).map(PathBuf::from)
                && !path.is_absolute()
            {
                return Err(DirsError::Relative { name, path });
            }
        }
        let config_override = absolute("BANGER_CONFIG");
        if let Some(home) = absolute("BANGER_HOME") {
            return Ok(Self {
                runtime: home.join("run"),
                state: home.join("state"),
                data: home.join("data"),
                cache: home.join("cache"),
                config: config_override.unwrap_or_else(|| home.join("config.toml")),
            });
        }
        let home = absolute("HOME").ok_or(DirsError::NoHome)?;
        let xdg = |name: &str, fallback: &str| {
            absolute(name)
                .unwrap_or_else(|| home.join(fallback))
                .join("banger")
        };
        let uid = rustix::process::geteuid().as_raw();
        Ok(Self {
            runtime: absolute("XDG_RUNTIME_DIR").map_or_else(
                || PathBuf::from(format!("/tmp/banger-runtime-{uid}")),
                |dir| dir.join("banger"),
            ),
            state: xdg("XDG_STATE_HOME", ".local/state"),
            data: xdg("XDG_DATA_HOME", ".local/share"),
            cache: xdg("XDG_CACHE_HOME", ".cache"),
            config: config_override
                .unwrap_or_else(|| xdg("XDG_CONFIG_HOME", ".config").join("config.toml")),
        })
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("bangerd.sock")
    }

    /// The file that the running daemon holds locked; it contains its process id.
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("bangerd.lock")
    }

    /// The log of a daemon that the command line started.
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }

    /// The file that pins the host keys of all VMs.
    pub fn known_hosts(&self) -> PathBuf {
        self.state.join("ssh/known_hosts")
    }

    /// The owner's private key for VMs.
    pub fn ssh_identity(&self) -> PathBuf {
        self.state.join("ssh/id_ed25519")
    }

    /// Makes the runtime directory if it is missing, then checks on the opened directory that
    /// it is a directory, no link, ours and of mode 0700, in a place where nobody can replace it.
    pub fn ensure_runtime(&self) -> Result<(), DirsError> {
        let path = &self.runtime;
        if let Some(parent) = path.parent() {
            make_private_dirs(parent)?;
            verify_parent(parent)?;
        }
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(io_error("make", path, errno)),
        }
        verify_runtime(path)
    }
}

/// Checks that nobody but us and root can replace what is in `path`. (Root that took over a
/// user's `XDG_RUNTIME_DIR` would else work in a directory that this user can swap.)
fn verify_parent(path: &Path) -> Result<(), DirsError> {
    let stat = rustix::fs::stat(path).map_err(|errno| io_error("look at", path, errno))?;
    let fault = if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        format!(
            "is to be below this one, which belongs to uid {}",
            stat.st_uid
        )
    } else if stat.st_mode & 0o1002 == 0o0002 {
        "is to be below this one, which anybody can write to".into()
    } else {
        return Ok(());
    };
    Err(DirsError::Unsafe {
        path: path.to_owned(),
        fault,
    })
}

/// Checks that `path` is a real directory, owned by the effective user, of mode 0700.
fn verify_runtime(path: &Path) -> Result<(), DirsError> {
    let refuse = |fault: String| {
        Err(DirsError::Unsafe {
            path: path.to_owned(),
            fault,
        })
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| io_error("open", path, errno))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| io_error("look at", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return refuse("is not a directory (a link, perhaps)".into());
    }
    let uid = rustix::process::geteuid().as_raw();
    if stat.st_uid != uid {
        return refuse(format!("belongs to uid {}, not to {uid}", stat.st_uid));
    }
    let mode = stat.st_mode & 0o7777;
    if mode != 0o700 {
        return refuse(format!("has mode {mode:04o}, not 0700"));
    }
    Ok(())
}

/// Makes a directory and its missing parents, each of mode 0700.
fn make_private_dirs(path: &Path) -> Result<(), DirsError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| DirsError::Io {
            verb: "make",
            path: path.to_owned(),
            source,
        })
}

fn io_error(verb: &'static str, path: &Path, errno: rustix::io::Errno) -> DirsError {
    DirsError::Io {
        verb,
        path: path.to_owned(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn dirs(runtime: PathBuf) -> Dirs {
        Dirs {
            runtime,
            state: PathBuf::new(),
            data: PathBuf::new(),
            cache: PathBuf::new(),
            config: PathBuf::new(),
        }
    }

    #[test]
    fn runtime_is_made_private_and_accepted_again() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = dirs(temp.path().join("a/run"));
        dirs.ensure_runtime().unwrap();
        let mode = std::fs::metadata(&dirs.runtime)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700);
        dirs.ensure_runtime().unwrap();
    }

    #[test]
    fn runtime_refuses_links_modes_and_files() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            dirs(real.clone()).ensure_runtime(),
            Err(DirsError::Unsafe { .. })
        ));

        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o700)).unwrap();
        let link = temp.path().join("link");
        symlink(&real, &link).unwrap();
        assert!(matches!(
            dirs(link).ensure_runtime(),
            Err(DirsError::Unsafe { .. })
        ));

        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            dirs(file).ensure_runtime(),
            Err(DirsError::Unsafe { .. })
        ));
    }

    #[test]
    fn runtime_refuses_a_place_where_others_can_replace_it() {
        let temp = tempfile::tempdir().unwrap();
        let parent = temp.path().join("parent");
        std::fs::create_dir(&parent).unwrap();
        let refused = |mode: u32| {
            std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(mode)).unwrap();
            dirs(parent.join("run")).ensure_runtime().is_err()
        };
        assert!(refused(0o777));
        assert!(!refused(0o1777) && !refused(0o755));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&parent, Some(12345), None).unwrap();
            assert!(refused(0o700));
        }
    }

    #[test]
    fn runtime_refuses_another_users_directory() {
        if !rustix::process::geteuid().is_root() {
            return; // only root can make a directory that belongs to somebody else
        }
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let error = dirs(path).ensure_runtime().unwrap_err();
        assert!(
            error.to_string().contains("belongs to uid 12345"),
            "{error}"
        );
    }
}
