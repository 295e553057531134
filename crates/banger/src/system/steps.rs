//! What installing does to the host's files, step by step. Each step knows whether it is done
//! already and how it is undone; when one fails, all that this run did is undone in reverse.

use super::host::Host;
use crate::error::CliError;
use banger_names::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the text or bytes of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// It is this.
    Text(String),
    /// It is a copy of this file.
    Copy(PathBuf),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A system group without members.
    Group(&'static str),
    /// A directory of root's.
    Directory { path: PathBuf, mode: u32 },
    /// A symbolic link. One to another place is left alone.
    Link { path: PathBuf, target: PathBuf },
    /// A file of root's, replaced whole or not at all.
    File {
        path: PathBuf,
        content: Content,
        mode: u32,
    },
    /// A kernel module that is loaded.
    Module(&'static str),
}

/// How a step is undone.
#[derive(Debug)]
enum Undo {
    Nothing,
    RemoveGroup(&'static str),
    /// It was not there before, so all that is in it is ours.
    RemoveDirectory(PathBuf),
    RemoveFile(PathBuf),
    Restore {
        path: PathBuf,
        kept: PathBuf,
    },
}

/// The steps that were carried out.
#[derive(Debug)]
pub(crate) struct Carried<'a> {
    host: &'a Host,
    undos: Vec<Undo>,
}

impl Step {
    /// What it does, for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Group(name) => format!("make the group {name}, without members"),
            Self::Directory { path, mode } => {
                format!("make the directory {} ({mode:04o})", path.display())
            }
            Self::Link { path, target } => {
                format!("link {} to {}", path.display(), target.display())
            }
            Self::File {
                path,
                content: Content::Text(_),
                mode,
            } => format!("write {} ({mode:04o})", path.display()),
            Self::File {
                path,
                content: Content::Copy(from),
                mode,
            } => format!("copy {} to {} ({mode:04o})", from.display(), path.display()),
            Self::Module(name) => format!("load the kernel module {name}"),
        }
    }

    /// Whether the host is so already.
    pub(crate) fn is_done(&self, host: &Host) -> Result<bool, CliError> {
        match self {
            Self::Group(name) => Ok(host.succeeds("getent", &["group", name])),
            Self::Directory { path, mode } => Ok(fs::symlink_metadata(host.at(path))
                .is_ok_and(|is| is.is_dir() && is.permissions().mode() & 0o7777 == *mode)),
            // A link or a file of somebody else's stays.
            Self::Link { path, .. } => Ok(fs::symlink_metadata(host.at(path)).is_ok()),
            Self::File {
                path,
                content,
                mode,
            } => {
                let there = host.at(path);
                let is_file = fs::symlink_metadata(&there)
                    .is_ok_and(|is| is.is_file() && is.permissions().mode() & 0o7777 == *mode);
                Ok(is_file && digest_of(&there)? == content.digest()?)
            }
            Self::Module(name) => Ok(host.at(format!("/sys/module/{name}")).exists()),
        }
    }

    /// How a step that is done is undone, if that was by a run that was killed before its end.
    fn begun(&self, host: &Host) -> Result<Option<Undo>, CliError> {
        let Self::File { path, .. } = self else {
            return Ok(None);
        };
        let path = host.at(path);
        let [new, kept] = beside(&path);
        remove_stale(&new)?;
        let is_kept = fs::symlink_metadata(&kept).is_ok();
        Ok(is_kept.then_some(Undo::Restore { path, kept }))
    }

    fn apply(&self, host: &Host) -> Result<Undo, CliError> {
        match self {
            Self::Group(name) => {
                host.run("groupadd", &["--system", name])?;
                Ok(Undo::RemoveGroup(name))
            }
            Self::Directory { path, mode } => make_directory(&host.at(path), *mode),
            Self::Link { path, target } => {
                let path = host.at(path);
                std::os::unix::fs::symlink(target, &path)
                    .map_err(|source| CliError::io(format!("link {path:?}"), &source))?;
                Ok(Undo::RemoveFile(path))
            }
            Self::File {
                path,
                content,
                mode,
            } => replace(&host.at(path), content, *mode),
            Self::Module(name) => {
                host.run("modprobe", &["-q", name])?;
                Ok(Undo::Nothing)
            }
        }
    }
}

impl Content {
    /// The digest of what it is.
    pub(crate) fn digest(&self) -> Result<Digest, CliError> {
        match self {
            Self::Text(text) => Ok(Digest::from_sha256(Sha256::digest(text).into())),
            Self::Copy(from) => digest_of(from),
        }
    }
}

impl<'a> Carried<'a> {
    /// Nothing so far.
    pub(crate) fn none(host: &'a Host) -> Self {
        Self {
            host,
            undos: Vec::new(),
        }
    }

    /// Carries a step out unless it is done already, and says whether it had to. What a run that
    /// was killed did counts as done by this one: what ran before may run still.
    pub(crate) fn carry_out(&mut self, step: &Step) -> Result<bool, CliError> {
        if step.is_done(self.host)? {
            let begun = step.begun(self.host)?;
            let was_begun = begun.is_some();
            self.undos.extend(begun);
            return Ok(was_begun);
        }
        self.undos.push(step.apply(self.host)?);
        Ok(true)
    }

    /// Lets what was done stand.
    pub(crate) fn keep(self) -> Result<(), CliError> {
        for undo in self.undos {
            if let Undo::Restore { kept, .. } = undo {
                fs::remove_file(&kept)
                    .map_err(|source| CliError::io(format!("remove {kept:?}"), &source))?;
            }
        }
        Ok(())
    }

    /// Undoes all, the last first; gives what could not be undone.
    pub(crate) fn undo(self) -> Vec<String> {
        let mut left = Vec::new();
        for undo in self.undos.into_iter().rev() {
            let (what, result) = match undo {
                Undo::Nothing => continue,
                Undo::RemoveGroup(name) => {
                    if let Err(error) = self.host.run("groupdel", &[name]) {
                        left.push(format!("undo: the group {name} stays: {error}"));
                    }
                    continue;
                }
                Undo::RemoveDirectory(path) => (path.clone(), fs::remove_dir_all(path)),
                Undo::RemoveFile(path) => (path.clone(), fs::remove_file(path)),
                Undo::Restore { path, kept } => (path.clone(), fs::rename(kept, path)),
            };
            if let Err(error) = result {
                left.push(format!("undo: {} stays as it is: {error}", what.display()));
            }
        }
        left
    }
}

/// The digest of a file.
pub(crate) fn digest_of(path: &Path) -> Result<Digest, CliError> {
    let failed = |source| CliError::io(format!("read {path:?}"), &source);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_sha256(hasher.finalize().into())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<Undo, CliError> {
    let failed = |source| CliError::io(format!("make the directory {path:?}"), &source);
    let undo = match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Undo::RemoveDirectory(path.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = fs::symlink_metadata(path).map_err(failed)?;
            if !there.is_dir() || there.uid() != rustix::process::geteuid().as_raw() {
                let error = io::Error::other("something else is there");
                return Err(failed(error));
            }
            Undo::Nothing
        }
        Err(error) => return Err(failed(error)),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(undo)
}

/// Where the next of a file is written, and where what it was is kept, until all is done.
pub(crate) fn beside(path: &Path) -> [PathBuf; 2] {
    ["new", "old"].map(|mark| {
        let mut name = std::ffi::OsString::from(format!(".banger-{mark}-"));
        name.push(path.file_name().unwrap_or_default());
        path.with_file_name(name)
    })
}

fn remove_stale(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CliError::io(format!("remove {path:?}"), &error))
        }
        _ => Ok(()),
    }
}

/// Writes a file under another name and moves it to its place: a program that runs keeps what it
/// was started from. What was there is kept beside it until all is done.
fn replace(path: &Path, content: &Content, mode: u32) -> Result<Undo, CliError> {
    let failed = |source| CliError::io(format!("write {path:?}"), &source);
    let [new, kept] = beside(path);
    // What a run that was killed left.
    remove_stale(&new)?;
    remove_stale(&kept)?;
    let undo = match fs::hard_link(path, &kept) {
        Ok(()) => Undo::Restore {
            path: path.to_owned(),
            kept,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Undo::RemoveFile(path.to_owned()),
        Err(error) => return Err(failed(error)),
    };
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        match content {
            Content::Text(text) => file.write_all(text.as_bytes())?,
            Content::Copy(from) => {
                io::copy(&mut File::open(from)?, &mut file)?;
            }
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| {
        // The failure is reported; its rest only takes space.
        drop(fs::remove_file(&new));
        if let Undo::Restore { kept, .. } = &undo {
            drop(fs::remove_file(kept));
        }
        failed(error)
    })?;
    Ok(undo)
}

#[cfg(test)]
mod tests;
