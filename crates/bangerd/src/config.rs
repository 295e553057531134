//! Reads the configuration file, which may be anything a hostile or careless hand put there.

use banger_api::Config;
use rustix::fs::{FileType, Mode, OFlags};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest configuration file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be opened or read.
    #[error("read the configuration {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is not a file that only its owner could have written, or is far too large.
    #[error("use the configuration {path:?}: it {fault}")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// It is not a configuration.
    #[error("understand the configuration {path:?}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, on one line.
        reason: String,
    },
}

/// Reads the configuration at `path`; a missing file gives the defaults. Never blocks on
/// what is not a regular file, and never follows a link in the last component.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let io = |source: std::io::Error| ConfigError::Io {
        path: path.to_owned(),
        source,
    };
    let refuse = |fault: String| ConfigError::Unsafe {
        path: path.to_owned(),
        fault,
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(Config::default()),
        Err(rustix::io::Errno::LOOP) => return Err(refuse("is a symbolic link".into())),
        Err(errno) => return Err(io(errno.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| io(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse("is not a regular file".into()));
    }
    let uid = rustix::process::geteuid().as_raw();
    if stat.st_uid != uid && stat.st_uid != 0 {
        return Err(refuse(format!("belongs to uid {}", stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(refuse(format!(
            "can be written by others (mode {:04o})",
            stat.st_mode & 0o7777
        )));
    }
    let mut text = String::new();
    std::fs::File::from(fd)
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(io)?;
    if text.len() as u64 > MAX_FILE {
        return Err(refuse(format!("is larger than {MAX_FILE} bytes")));
    }
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        ConfigError::Syntax {
            path: path.to_owned(),
            reason: format!("line {line}: {}", error.message().replace('\n', " ")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_names::ByteSize;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn missing_file_gives_defaults_and_values_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.toml");
        assert_eq!(load(&path).unwrap(), Config::default());
        std::fs::write(
            &path,
            "[vm]\nmemory = \"2G\"\n[daemon]\nidle_exit_seconds = 0\n",
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = load(&path).unwrap();
        assert_eq!(config.vm.memory, ByteSize::gib(2));
        assert_eq!(config.daemon.idle_exit_seconds, 0);
    }

    #[test]
    fn load_refuses_links_fifos_foreign_modes_sizes_and_unknown_keys() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = temp.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let plain = write("plain", "", 0o600);
        let link = temp.path().join("link");
        symlink(&plain, &link).unwrap();
        assert!(
            load(&link)
                .unwrap_err()
                .to_string()
                .contains("symbolic link")
        );

        let fifo = temp.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(
            load(&fifo)
                .unwrap_err()
                .to_string()
                .contains("regular file")
        );

        let open = write("open", "", 0o666);
        assert!(
            load(&open)
                .unwrap_err()
                .to_string()
                .contains("written by others")
        );

        let large = write("large", &"#".repeat(70_000), 0o600);
        assert!(
            load(&large)
                .unwrap_err()
                .to_string()
                .contains("larger than")
        );

        let unknown = write("unknown", "\n\n[vm]\ncpu = 1\n", 0o600);
        let message = load(&unknown).unwrap_err().to_string();
        assert!(
            message.contains("line 4") && message.contains("cpu"),
            "{message}"
        );

        let deep = write("deep", &format!("a = {}", "[".repeat(30_000)), 0o600);
        assert!(load(&deep).is_err());
    }
}
