//! Files in and out of the guest, as tar streams.
//!
//! What is unpacked stays below its directory: the tar crate refuses names that lead out and
//! resolves each parent before it writes. What is packed is read as it is; sockets are left out.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Component, Path, PathBuf};

use banger_guest::exactly::Exactly;
use banger_guest::request::{CopyIn, CopyOut, Failure, FailureCode, Reply};
use rustix::fs::{OFlags, major, minor};
use tar::{Archive, Builder, EntryType, Header, HeaderMode};

use crate::exec::find_user;
use crate::serve::io_failure;
use crate::stream::{DataReader, DataWriter, Stream, StreamError, failure};

/// The most that is read of a file that says it is empty, as those of /proc do.
const MAX_UNSIZED: u64 = 16 * 1024 * 1024;

/// Unpacks what the host sends below a directory.
pub fn copy_in(mut stream: Stream, request: &CopyIn) -> Result<(), StreamError> {
    let owner = match prepare(request) {
        Ok(owner) => owner,
        Err(failure) => return stream.fail(&failure),
    };
    stream.reply(&Reply::default())?;
    let unpacked = {
        let mut reader = stream.data_reader();
        let unpacked = unpack(&mut reader, Path::new(&request.dir), owner);
        // Also after a failure: the host writes to the end before it reads the answer.
        reader.finish()?;
        unpacked
    };
    match unpacked {
        Ok(()) => stream.succeed(),
        Err(failure) => stream.fail(&failure),
    }
}

type Owner = Option<(u32, u32)>;

fn prepare(request: &CopyIn) -> Result<Owner, Failure> {
    let dir = absolute(&request.dir)?;
    let owner = if request.owner.is_empty() {
        None
    } else {
        let identity = find_user(&request.owner)?.identity;
        Some((identity.uid, identity.gid))
    };
    if request.create {
        create_dirs(dir, owner)
            .map_err(|error| io_failure(&format!("make directory {dir:?}"), &error))?;
    }
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(owner),
        Ok(_) => Err(failure(
            FailureCode::Invalid,
            format!("{dir:?} is no directory"),
        )),
        Err(error) => Err(io_failure(&format!("open directory {dir:?}"), &error)),
    }
}

fn absolute(path: &str) -> Result<&Path, Failure> {
    let path = Path::new(path);
    if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(path);
    }
    Err(failure(
        FailureCode::Invalid,
        format!("{path:?} is no absolute path"),
    ))
}

/// Makes the directories that are missing, for the owner of what will be in them.
fn create_dirs(dir: &Path, owner: Owner) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    for path in missing.into_iter().rev() {
        std::fs::create_dir(path)?;
        if let Some((uid, gid)) = owner {
            lchown(path, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

fn unpack(reader: &mut DataReader<'_>, dir: &Path, owner: Owner) -> Result<(), Failure> {
    let mut archive = Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(owner.is_none() && rustix::process::geteuid().is_root());
    archive.set_overwrite(true);
    let read_failure = |error: io::Error| io_failure("read the tar stream", &error);
    // Directories get their modes and times last, deepest first: a read-only one would
    // keep its files out, and every file would change its time.
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(read_failure)? {
        let mut entry = entry.map_err(read_failure)?;
        let name = entry.path().map_err(read_failure)?.into_owned();
        if entry.header().entry_type() == EntryType::Directory {
            directories.push(DirectoryEntry::of(&entry, &name).map_err(read_failure)?);
            let path = confined(dir, &name)?;
            make_directory(dir, &path)
                .map_err(|error| io_failure(&format!("make directory {path:?}"), &error))?;
            continue;
        }
        let unpacked = entry.unpack_in(dir).map_err(|error| {
            io_failure(&format!("write {:?}", dir.join(&name)), &innermost(error))
        })?;
        if !unpacked {
            return Err(leads_out(&name));
        }
        if let Some((uid, gid)) = owner {
            let path = confined(dir, &name)?;
            lchown(&path, Some(uid), Some(gid))
                .map_err(|error| io_failure(&format!("change the owner of {path:?}"), &error))?;
        }
    }
    for entry in directories.iter().rev() {
        let path = confined(dir, &entry.name)?;
        entry
            .apply(&path, owner)
            .map_err(|error| io_failure(&format!("set the mode of {path:?}"), &error))?;
    }
    Ok(())
}

/// The tar crate wraps the cause into sentences of its own.
fn innermost(error: io::Error) -> io::Error {
    let kind = error.kind();
    let text = crate::log::chain(&error);
    io::Error::new(kind, text)
}

fn leads_out(name: &Path) -> Failure {
    failure(
        FailureCode::Invalid,
        format!("the tar stream's entry {name:?} leads out of the directory"),
    )
}

/// The entry's place. Names with `..` are refused, leading slashes and dots dropped.
fn confined(dir: &Path, name: &Path) -> Result<PathBuf, Failure> {
    let mut path = dir.to_path_buf();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(leads_out(name)),
        }
    }
    Ok(path)
}

/// Makes a directory and its parents below `dir`. Nothing on the way below `dir` may be a link that
/// leads out of it.
fn make_directory(dir: &Path, path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        // A link to a directory stays what it is, as tar does by default nowadays.
        Ok(metadata) if metadata.is_symlink() && path.is_dir() => return check_inside(dir, path),
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = path.parent()
        && parent != dir
        && parent.starts_with(dir)
    {
        make_directory(dir, parent)?;
        check_inside(dir, parent)?;
    }
    std::fs::create_dir(path)
}

fn check_inside(dir: &Path, path: &Path) -> io::Result<()> {
    if path.canonicalize()?.starts_with(dir.canonicalize()?) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "a link leads out of the directory",
    ))
}

struct DirectoryEntry {
    name: PathBuf,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
}

impl DirectoryEntry {
    fn of<R: io::Read>(entry: &tar::Entry<'_, R>, name: &Path) -> io::Result<Self> {
        let header = entry.header();
        let id =
            |id: u64| u32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(Self {
            name: name.to_owned(),
            mode: header.mode()?,
            owner: (id(header.uid()?)?, id(header.gid()?)?),
            mtime: header.mtime()?,
        })
    }

    fn apply(&self, path: &Path, owner: Owner) -> io::Result<()> {
        if std::fs::symlink_metadata(path)?.is_symlink() {
            return Ok(());
        }
        let (uid, gid) = owner.unwrap_or(self.owner);
        if rustix::process::geteuid().is_root() {
            lchown(path, Some(uid), Some(gid))?;
        }
        std::fs::set_permissions(
            path,
            std::os::unix::fs::PermissionsExt::from_mode(self.mode & 0o7777),
        )?;
        let time = std::time::SystemTime::UNIX_EPOCH
            .checked_add(std::time::Duration::from_secs(self.mtime))
            .ok_or(io::ErrorKind::InvalidData)?;
        std::fs::File::open(path)?.set_modified(time)
    }
}

/// Packs a path for the host.
pub fn copy_out(stream: Stream, request: &CopyOut) -> Result<(), StreamError> {
    let found = absolute(&request.path).and_then(|path| {
        std::fs::symlink_metadata(path)
            .map_err(|error| io_failure(&format!("open {path:?}"), &error))?;
        let name = path.file_name().map(PathBuf::from);
        // The root directory has no name of its own; neither has a path that ends with "..".
        let name = name.unwrap_or_else(|| PathBuf::from("."));
        Ok((path.to_owned(), name))
    });
    let (path, name) = match found {
        Ok(found) => found,
        Err(failure) => return stream.fail(&failure),
    };
    stream.reply(&Reply::default())?;
    let mut builder = Builder::new(stream.data_writer());
    let packed = pack(&mut builder, &path, &name);
    match packed {
        Ok(()) => match builder.into_inner() {
            Ok(writer) => {
                writer.finish()?;
                stream.succeed()
            }
            Err(error) => Err(error.into()),
        },
        Err(failure) => {
            // The writer's rest is dropped: the failure ends the stream.
            drop(builder);
            stream.fail(&failure)
        }
    }
}

/// Packs a path and, if it is a directory, all below it, each directory's entries by name. Without
/// recursion: the depth is the guest's choice.
fn pack(builder: &mut Builder<DataWriter<'_>>, top: &Path, name: &Path) -> Result<(), Failure> {
    let mut left = vec![(top.to_owned(), name.to_owned())];
    while let Some((path, name)) = left.pop() {
        let failed = |error: io::Error| io_failure(&format!("read {path:?}"), &innermost(error));
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != top => continue,
            Err(error) => return Err(failed(error)),
        };
        let kind = metadata.file_type();
        if kind.is_socket() {
            continue;
        }
        pack_entry(builder, &path, &name, &metadata, path == top).map_err(failed)?;
        if !kind.is_dir() {
            continue;
        }
        let mut names = std::fs::read_dir(&path)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(failed)?;
        names.sort_unstable();
        let below = names.iter().rev();
        left.extend(below.map(|entry| (path.join(entry), name.join(entry))));
    }
    Ok(())
}

/// Packs one file, directory, link, device or pipe. By hand: the tar crate takes a device's path for
/// its name, and lets a file that grows run over into the next entry.
fn pack_entry(
    builder: &mut Builder<DataWriter<'_>>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
    is_top: bool,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(metadata, HeaderMode::Complete);
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return builder.append_link(&mut header, name, std::fs::read_link(path)?);
    }
    if !kind.is_file() {
        if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(major(metadata.rdev()))?;
            header.set_device_minor(minor(metadata.rdev()))?;
        }
        return builder.append_data(&mut header, name, io::empty());
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let size = file.metadata()?.len();
    if size == 0 && is_top {
        let mut content = Vec::new();
        file.take(MAX_UNSIZED).read_to_end(&mut content)?;
        header.set_size(content.len() as u64);
        return builder.append_data(&mut header, name, content.as_slice());
    }
    header.set_size(size);
    builder.append_data(&mut header, name, Exactly::new(file, size))
}
