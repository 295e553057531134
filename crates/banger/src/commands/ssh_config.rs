//! `banger ssh-config`

use crate::app::App;
use crate::error::CliError;
use crate::ssh::config_block;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Print the ssh_config block with which a plain `ssh NAME.vm` reaches a VM
///
/// Host keys are made per VM by the host and pinned; nothing of yours is forwarded.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the block to a file of banger's and add one Include line to ~/.ssh/config
    #[arg(long)]
    install: bool,
}

impl Args {
    pub(crate) fn run(self, app: &App) -> Result<(), CliError> {
        let dirs = app.dirs()?;
        let block = config_block(app.rootless, &dirs.known_hosts(), &dirs.ssh_identity())?;
        if !self.install {
            return app.ui.text(&block);
        }
        let ours = dirs.config.with_file_name("ssh_config");
        let home = std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .ok_or_else(|| CliError::failed("find ~/.ssh/config: HOME is not set"))?;
        let theirs = home.join(".ssh/config");
        write_private(&ours, &block)
            .map_err(|source| CliError::io(format!("write {ours:?}"), &source))?;
        let is_new = include(&theirs, &ours)
            .map_err(|source| CliError::io(format!("write {theirs:?}"), &source))?;
        app.ui.note(if is_new {
            "added one Include line to ~/.ssh/config: ssh NAME.vm reaches a VM"
        } else {
            "~/.ssh/config includes it already"
        });
        app.ui.text(&format!("{}\n", ours.display()))
    }
}

/// Puts the Include line first in `theirs` (before any Host, where it counts for all), unless
/// it is there. A link to the file stays one.
fn include(theirs: &Path, ours: &Path) -> io::Result<bool> {
    let line = format!("Include \"{}\"", ours.display());
    let (path, before) = match std::fs::canonicalize(theirs) {
        Ok(real) => {
            let before = std::fs::read_to_string(&real)?;
            (real, before)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (theirs.to_owned(), String::new()),
        Err(error) => return Err(error),
    };
    if before.lines().any(|there| there.trim() == line) {
        return Ok(false);
    }
    write_private(&path, &format!("{line}\n{before}"))?;
    Ok(true)
}

/// Writes a file whole or not at all; a new one can be read by the user only.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mode = std::fs::metadata(path).map_or(0o600, |there| there.permissions().mode() & 0o7777);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // What failed is reported; a rest of it only takes space.
        drop(std::fs::remove_file(&temporary));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_include_line_is_added_once_and_first() {
        let temp = tempfile::tempdir().unwrap();
        let theirs = temp.path().join(".ssh/config");
        let ours = temp.path().join("a b/ssh_config");
        assert!(include(&theirs, &ours).unwrap());
        assert!(!include(&theirs, &ours).unwrap());
        let mode = theirs.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        std::fs::write(&theirs, "Host x\n  Port 2\n").unwrap();
        assert!(include(&theirs, &ours).unwrap());
        let text = std::fs::read_to_string(&theirs).unwrap();
        let line = format!("Include \"{}\"", ours.display());
        assert_eq!(text, format!("{line}\nHost x\n  Port 2\n"));
    }

    #[test]
    fn a_linked_config_stays_linked() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("dotfiles");
        std::fs::write(&real, "Host x\n").unwrap();
        let theirs = temp.path().join("config");
        std::os::unix::fs::symlink(&real, &theirs).unwrap();
        assert!(include(&theirs, Path::new("/o")).unwrap());
        assert!(theirs.symlink_metadata().unwrap().is_symlink());
        assert!(
            std::fs::read_to_string(&real)
                .unwrap()
                .starts_with("Include")
        );
    }
}
