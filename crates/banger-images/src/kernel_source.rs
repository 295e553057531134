//! Debian's kernel source: taken out of its package straight into a private directory, without
//! what a guest kernel of this machine's kind is never built from.

use crate::ImagesError;
use crate::codec::{Compression, Decoder};
use crate::deb;
use crate::files::create_directories;
use crate::limits::Limits;
use crate::progress::{ProgressSink, Step};
use crate::tar_reader::{Entry, Kind, TarReader};
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the archive lies in the package.
const ARCHIVE: &str = "usr/src/linux-source-";
/// Bytes of all files together; version 6.12 has 1.5 GB.
const TREE_MAX: u64 = 4 << 30;

/// What is left out but for the files that describe the build, which name each other across it.
const UNUSED: [&str; 6] = [
    "Documentation/",
    "drivers/gpu/drm/",
    "drivers/media/",
    "sound/",
    "tools/perf/",
    "tools/testing/",
];

/// An unpacked source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceTree {
    /// Where it is.
    pub(crate) directory: PathBuf,
    /// When the source was made, in seconds since 1970: the same in every build of it.
    pub(crate) made_unix: u64,
}

/// Takes the source out of `package` into `directory`, which must not exist.
pub(crate) fn unpack(
    package: &Path,
    directory: PathBuf,
    limits: &Limits,
    sink: &dyn ProgressSink,
) -> Result<SourceTree, ImagesError> {
    let total = fs::metadata(package).map(|meta| meta.len()).ok();
    let mut step = Step::begin(sink, "unpack kernel source", "", total);
    let (mut outer, done) = deb::open(package)?;
    while let Some(entry) = outer.next_entry()? {
        step.advance(done.get())?;
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let path = path.trim_start_matches("./");
        if entry.kind != Kind::File || !path.starts_with(ARCHIVE) || !path.contains(".tar.") {
            continue;
        }
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        let mut archive = BufReader::with_capacity(1 << 16, Content(&mut outer));
        let compression = Compression::of(archive.fill_buf().map_err(damaged(&name))?);
        let decoder = Decoder::new(archive, compression).map_err(damaged(&name))?;
        let mut inner = TarReader::new(decoder, name);
        create_directories(&directory)?;
        let mut tree = Unpacking {
            directory,
            limits,
            entries: 0,
            bytes: 0,
            links: Vec::new(),
            made_unix: 0,
        };
        while let Some(entry) = inner.next_entry()? {
            step.advance(done.get())?;
            tree.take(&entry, &mut inner)?;
        }
        return tree.finish();
    }
    let package = package.display().to_string();
    Err(ImagesError::refused(package, "it holds no kernel source"))
}

fn damaged(name: &str) -> impl FnOnce(io::Error) -> ImagesError + '_ {
    move |error| ImagesError::refused(name, format!("the archive is damaged: {error}"))
}

/// The content of an archive's present entry.
struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(io::Error::other)
    }
}

/// A source being unpacked. Files are made new and never through a link: links come last.
struct Unpacking<'a> {
    directory: PathBuf,
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
    links: Vec<(PathBuf, PathBuf)>,
    made_unix: u64,
}

impl Unpacking<'_> {
    fn take<R: Read>(&mut self, entry: &Entry, tar: &mut TarReader<R>) -> Result<(), ImagesError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.entries > self.limits.tar_entries || self.bytes > TREE_MAX {
            return Err(ImagesError::refused("kernel source", "it is too large"));
        }
        let path = confined(&entry.path)?;
        if !is_used(&path) {
            return Ok(());
        }
        let target = self.directory.join(&path);
        match entry.kind {
            Kind::Directory => create_directories(&target),
            Kind::File => {
                if path == "Makefile" {
                    self.made_unix = u64::try_from(entry.mtime.0).unwrap_or_default();
                }
                if let Some(parent) = target.parent() {
                    create_directories(parent)?;
                }
                write_file(tar, &target, entry.mode)
            }
            Kind::Symlink => {
                let link = link_target(&path, &entry.link).ok_or_else(|| {
                    ImagesError::entry(&entry.path, "it links outside the source")
                })?;
                self.links.push((target, link));
                Ok(())
            }
            _ => Err(ImagesError::entry(
                &entry.path,
                "it is neither a file, a directory nor a symbolic link",
            )),
        }
    }

    fn finish(self) -> Result<SourceTree, ImagesError> {
        for (path, target) in self.links {
            if let Some(parent) = path.parent() {
                create_directories(parent)?;
            }
            std::os::unix::fs::symlink(target, &path).map_err(ImagesError::io("create", &path))?;
        }
        if !self.directory.join("Makefile").is_file() {
            return Err(ImagesError::refused("kernel source", "it has no Makefile"));
        }
        Ok(SourceTree {
            directory: self.directory,
            made_unix: self.made_unix,
        })
    }
}

/// An entry's path below the archive's one directory, checked to stay there.
fn confined(raw: &[u8]) -> Result<String, ImagesError> {
    let refuse = |reason| ImagesError::entry(raw, reason);
    let text = std::str::from_utf8(raw).map_err(|_| refuse("its name is not UTF-8"))?;
    let text = text.strip_prefix("./").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let is_confined = text.len() <= 1024
        && text
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
        && !text.contains('\0');
    if !is_confined {
        return Err(refuse("its path leaves the source"));
    }
    Ok(text.split_once('/').map_or("", |(_, path)| path).to_owned())
}

/// Where a link at `path` points, if that stays in the source.
fn link_target(path: &str, target: &[u8]) -> Option<PathBuf> {
    let target = std::str::from_utf8(target).ok()?;
    let mut depth = path.split('/').count().checked_sub(1)?;
    for part in target.split('/') {
        match part {
            // An absolute target begins with an empty part.
            "" => return None,
            "." => {}
            ".." => depth = depth.checked_sub(1)?,
            _ => depth += 1,
        }
    }
    Some(PathBuf::from(target))
}

/// Whether a file of the source is needed; the directories that are not would double the time and
/// room that unpacking takes.
fn is_used(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    if file.starts_with("Kconfig") || file.starts_with("Makefile") || file.starts_with("Kbuild") {
        return true;
    }
    let is_other_machine = path
        .strip_prefix("arch/")
        .is_some_and(|rest| rest.contains('/') && !rest.starts_with("x86/"));
    !is_other_machine && !UNUSED.iter().any(|unused| path.starts_with(unused))
}

fn write_file<R: Read>(tar: &mut TarReader<R>, path: &Path, mode: u16) -> Result<(), ImagesError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if mode & 0o111 == 0 { 0o600 } else { 0o700 })
        .open(path)
        .map_err(ImagesError::io("create", path))?;
    let mut buffer = vec![0; 1 << 16];
    while tar.has_content() {
        let count = tar.read(&mut buffer)?;
        file.write_all(&buffer[..count])
            .map_err(ImagesError::io("write", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
