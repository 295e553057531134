//! Builds ext4 images from trees, as any user, without mounting: the same tree gives the same bytes.

use crate::ImagesError;
use crate::progress::Step;
use crate::sparse::write_without_zeros;
use crate::tree::{Content, NodeId, NodeKind, NodeMeta, ROOT, Tree};
use mkext4::{FsBuilder, InodeCount, InodeHandle, Layout, Meta, Options, RegionSink, SpecialKind};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
/// The smallest journal that Linux takes, in blocks. An image that is never written needs no more,
/// but the library makes none without.
const JOURNAL_BLOCKS: u32 = 1024;
/// Bytes and inodes of a block group.
const GROUP: u64 = 128 * MIB;
const GROUP_INODES: u64 = 32_768;
/// How often the size is raised when the first guess was too small.
const ATTEMPTS: u32 = 6;

/// What an image is made from.
pub(crate) struct Source<'a> {
    /// The tree.
    pub(crate) tree: &'a Tree,
    /// The archive with the files' contents.
    pub(crate) archive: &'a File,
    /// A hash of the tree, from which the image's UUID is taken.
    pub(crate) identity: [u8; 32],
}

/// Where things of a laid out image come from.
struct Plan {
    layout: Layout,
    contents: Vec<(InodeHandle, Content)>,
}

/// Bytes that an image of this tree will have on disk, roughly, so that room can be checked first.
pub(crate) fn estimate(tree: &Tree) -> u64 {
    let mut blocks = 0;
    let mut pending = vec![ROOT];
    while let Some(id) = pending.pop() {
        let node = tree.node(id);
        blocks += match &node.kind {
            NodeKind::File(content) => content.size.div_ceil(BLOCK),
            NodeKind::Directory(children) => {
                pending.extend(children.values());
                let names: usize = children.keys().map(|name| name.len() + 12).sum();
                2 + (names as u64).div_ceil(BLOCK / 2)
            }
            NodeKind::Symlink(target) => u64::from(target.len() >= 60),
            _ => 0,
        };
        blocks += u64::from(!node.meta.xattrs.is_empty());
    }
    blocks * BLOCK + tree.len() as u64 * 256
}

/// Writes the image into `output`, an empty file, and returns its length.
pub(crate) fn build(
    source: &Source<'_>,
    output: &File,
    path: &Path,
    step: &mut Step<'_>,
) -> Result<u64, ImagesError> {
    let plan = plan(source, path)?;
    let length = plan.layout.image_len();
    let fail = |error| from_library(error, path);
    output
        .set_len(length)
        .map_err(ImagesError::io("write", path))?;
    let mut sink = FileSink { file: output };
    let mut writer = plan.layout.writer(&mut sink).map_err(fail)?;
    let total = plan.contents.iter().map(|(_, content)| content.size).sum();
    step.detail("", Some(0), Some(total));
    let mut done = 0;
    for (handle, content) in &plan.contents {
        let mut reader = ContentReader {
            archive: source.archive,
            at: content.position,
            left: content.size,
        };
        writer.fill(*handle, &mut reader).map_err(fail)?;
        done += content.size;
        step.advance(done)?;
    }
    writer.finish().map_err(fail)?;
    Ok(length)
}

/// Makes an empty file system of `size` bytes in `output`, an empty file, with a journal of the usual size.
pub(crate) fn build_empty(size: u64, output: &File, path: &Path) -> Result<(), ImagesError> {
    let fail = |error| from_library(error, path);
    let mut uuid = *b"banger overlay\0\0";
    set_uuid_version(&mut uuid);
    let mut options = Options::new(size / BLOCK * BLOCK, uuid, 0);
    options.label = Some("banger-overlay".to_owned());
    options.reserved_percent = 0;
    let builder = FsBuilder::new(options).map_err(fail)?;
    let layout = builder.seal().map_err(fail)?;
    output
        .set_len(layout.image_len())
        .map_err(ImagesError::io("write", path))?;
    let mut sink = FileSink { file: output };
    let writer = layout.writer(&mut sink).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(())
}

/// Lays the image out, in the smallest of a fixed series of sizes that it fits.
fn plan(source: &Source<'_>, path: &Path) -> Result<Plan, ImagesError> {
    let inodes = source.tree.len() as u64 + 64;
    let groups = inodes.div_ceil(GROUP_INODES / 2);
    let content = estimate(source.tree) + u64::from(JOURNAL_BLOCKS) * BLOCK;
    let mut size = (content + content / 50 + 16 * MIB).max(groups * GROUP);
    let mut attempt = 0;
    loop {
        size = size.next_multiple_of(4 * MIB);
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&source.identity[..16]);
        set_uuid_version(&mut uuid);
        let mut options = Options::new(size, uuid, 0);
        options.inodes = InodeCount::Exact(u32::try_from(inodes).unwrap_or(u32::MAX));
        options.reserved_percent = 0;
        options.journal_blocks = Some(JOURNAL_BLOCKS);
        let mut declaration = Declaration {
            builder: FsBuilder::new(options).map_err(|error| from_library(error, path))?,
            handles: HashMap::new(),
            contents: Vec::new(),
        };
        declaration.declare(source.tree)?;
        match declaration.builder.seal() {
            Ok(layout) => {
                return Ok(Plan {
                    layout,
                    contents: declaration.contents,
                });
            }
            Err(mkext4::Error::Invalid(why)) if why.contains("full") && attempt < ATTEMPTS => {
                attempt += 1;
                size += size / 4;
            }
            Err(error) => return Err(from_library(error, path)),
        }
    }
}

/// Marks 16 bytes as a UUID made by hashing (version 8, variant 1).
fn set_uuid_version(uuid: &mut [u8; 16]) {
    uuid[6] = 0x80 | uuid[6] & 0x0f;
    uuid[8] = 0x80 | uuid[8] & 0x3f;
}

fn from_library(error: mkext4::Error, path: &Path) -> ImagesError {
    match error {
        mkext4::Error::Io(source) => ImagesError::io("write", path)(source),
        other => ImagesError::refused(path.display().to_string(), other.to_string()),
    }
}

/// A tree being declared to the library, names in order, so that the order of an archive's entries
/// does not matter.
struct Declaration {
    builder: FsBuilder,
    handles: HashMap<NodeId, InodeHandle>,
    contents: Vec<(InodeHandle, Content)>,
}

impl Declaration {
    fn declare(&mut self, tree: &Tree) -> Result<(), ImagesError> {
        let root = &tree.node(ROOT).meta;
        self.set_root(root)
            .map_err(|error| ImagesError::entry(b"/", error.to_string()))?;
        let mut pending = vec![(mkext4::ROOT, ROOT)];
        while let Some((parent, id)) = pending.pop() {
            let NodeKind::Directory(children) = &tree.node(id).kind else {
                continue;
            };
            for (name, child) in children {
                let handle = self
                    .add(tree, parent, name, *child)
                    .map_err(|error| ImagesError::entry(name.as_bytes(), error.to_string()))?;
                if matches!(tree.node(*child).kind, NodeKind::Directory(_)) {
                    pending.push((handle, *child));
                }
            }
        }
        Ok(())
    }

    fn set_root(&mut self, meta: &NodeMeta) -> mkext4::Result<()> {
        self.builder.set_meta(mkext4::ROOT, library_meta(meta))?;
        for (name, value) in &meta.xattrs {
            self.builder.set_xattr(mkext4::ROOT, name, value)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        tree: &Tree,
        parent: InodeHandle,
        name: &str,
        id: NodeId,
    ) -> mkext4::Result<InodeHandle> {
        let builder = &mut self.builder;
        if let Some(handle) = self.handles.get(&id) {
            builder.hardlink(parent, name, *handle)?;
            return Ok(*handle);
        }
        let node = tree.node(id);
        let meta = library_meta(&node.meta);
        let handle = match &node.kind {
            NodeKind::Directory(_) => builder.mkdir(parent, name, meta)?,
            NodeKind::File(content) => {
                let handle = builder.file(parent, name, meta, content.size)?;
                if content.size > 0 {
                    self.contents.push((handle, *content));
                }
                handle
            }
            NodeKind::Symlink(target) => builder.symlink(parent, name, target, meta)?,
            NodeKind::Char { major, minor } => {
                let (major, minor) = (*major, *minor);
                builder.mknod(parent, name, meta, SpecialKind::Char { major, minor })?
            }
            NodeKind::Block { major, minor } => {
                let (major, minor) = (*major, *minor);
                builder.mknod(parent, name, meta, SpecialKind::Block { major, minor })?
            }
            NodeKind::Fifo => builder.mknod(parent, name, meta, SpecialKind::Fifo)?,
        };
        for (key, value) in &node.meta.xattrs {
            builder.set_xattr(handle, key, value)?;
        }
        self.handles.insert(id, handle);
        Ok(handle)
    }
}

fn library_meta(meta: &NodeMeta) -> Meta {
    Meta::new(meta.mode, meta.uid, meta.gid, meta.mtime)
}

/// Writes an image to a file, leaving holes for zeros.
struct FileSink<'a> {
    file: &'a File,
}

impl RegionSink for FileSink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_without_zeros(self.file, offset, bytes)
    }

    fn zeros(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Reads one file's content out of the archive.
struct ContentReader<'a> {
    archive: &'a File,
    at: u64,
    left: u64,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.archive.read_at(&mut buffer[..want], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
