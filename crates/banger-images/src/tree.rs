//! A file tree in memory, put together from an archive's entries before anything is built from it.
//!
//! All the rules on names and links are here. A path is a list of checked names from the root, so
//! there is nothing to escape to: `..`, absolute paths and paths through links are refused, not
//! resolved.

use crate::ImagesError;
use crate::tar_reader::{Entry, Kind};
use std::collections::BTreeMap;

/// The longest path and name that Linux takes.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
/// What ext4 can hold of one extended attribute, in a block of 4 KiB with its headers.
const XATTR_MAX: usize = 3900;
/// ext4's range of seconds: 34 bits, from -2^31.
const SECONDS: std::ops::Range<i64> = -(1 << 31)..(3 << 32) + (1 << 31);
/// ext4's device numbers.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

/// The directory that a file system makes by itself.
const LOST_FOUND: &str = "lost+found";

/// Which file it is; several names may lead to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(usize);

/// The root directory.
pub(crate) const ROOT: NodeId = NodeId(0);

/// A file of any type.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) meta: NodeMeta,
}

/// What a file is.
#[derive(Debug)]
pub(crate) enum NodeKind {
    Directory(BTreeMap<String, NodeId>),
    File(Content),
    Symlink(String),
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// A file's content, still in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) position: u64,
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
}

/// What every file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeMeta {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

/// A tree being put together.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A tree with an empty root directory.
    pub(crate) fn new() -> Self {
        Self {
            nodes: vec![Node {
                kind: NodeKind::Directory(BTreeMap::new()),
                meta: default_meta(),
            }],
        }
    }

    /// A file.
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// How many files there are, those that were replaced included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds an archive's entry. An entry for a file that is there replaces it; one for a directory
    /// that is there changes its owner, mode and times; no entry turns a directory into something
    /// else or something else into a directory. `content` is for regular files.
    pub(crate) fn add(
        &mut self,
        entry: &Entry,
        content: Option<Content>,
    ) -> Result<(), ImagesError> {
        let refuse = |reason: &str| ImagesError::entry(&entry.path, reason);
        let names = split_path(&entry.path).map_err(refuse)?;
        let meta = meta_of(entry)?;
        let Some((name, parents)) = names.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(refuse("it would replace the root directory"));
            }
            self.nodes[ROOT.0].meta = meta;
            return Ok(());
        };
        if names[0] == LOST_FOUND {
            // Every ext4 file system has its own; archives of whole file systems bring it along.
            return match entry.kind {
                Kind::Directory if parents.is_empty() => Ok(()),
                _ => Err(refuse("the name lost+found belongs to the file system")),
            };
        }
        let parent = self.directory(parents).map_err(refuse)?;
        let existing = self.child(parent, name);
        let is_directory = existing.map(|id| matches!(self.node(id).kind, NodeKind::Directory(_)));
        if let (Some(id), Some(true), Kind::Directory) = (existing, is_directory, entry.kind) {
            self.nodes[id.0].meta = meta;
            return Ok(());
        }
        match (is_directory, entry.kind) {
            (Some(true), _) => return Err(refuse("it would replace a directory")),
            (Some(false), Kind::Directory) => {
                return Err(refuse(
                    "it is a directory where there is a file or link already",
                ));
            }
            _ => {}
        }
        let id = if entry.kind == Kind::Hardlink {
            self.link_target(&entry.link).map_err(refuse)?
        } else {
            let kind = node_kind(entry, content).map_err(refuse)?;
            self.push(Node { kind, meta })
        };
        if let NodeKind::Directory(children) = &mut self.nodes[parent.0].kind {
            children.insert((*name).to_owned(), id);
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    fn child(&self, parent: NodeId, name: &str) -> Option<NodeId> {
        match &self.node(parent).kind {
            NodeKind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// The directory of this path, made where it is missing.
    fn directory(&mut self, names: &[&str]) -> Result<NodeId, &'static str> {
        let mut at = ROOT;
        for name in names {
            at = match self.child(at, name) {
                Some(id) => id,
                None => {
                    let new = self.push(Node {
                        kind: NodeKind::Directory(BTreeMap::new()),
                        meta: default_meta(),
                    });
                    if let NodeKind::Directory(children) = &mut self.nodes[at.0].kind {
                        children.insert((*name).to_owned(), new);
                    }
                    new
                }
            };
            match self.node(at).kind {
                NodeKind::Directory(_) => {}
                NodeKind::Symlink(_) => return Err("its path leads through a symbolic link"),
                _ => return Err("its path leads through something that is not a directory"),
            }
        }
        Ok(at)
    }

    /// What a hard link points to.
    fn link_target(&self, target: &[u8]) -> Result<NodeId, &'static str> {
        if target.starts_with(b"/") {
            return Err("it is a hard link to an absolute path");
        }
        let names =
            split_path(target).map_err(|_| "it is a hard link to a path outside or malformed")?;
        let mut at = ROOT;
        for name in names {
            at = self
                .child(at, name)
                .ok_or("it is a hard link to a file that is not there")?;
        }
        match self.node(at).kind {
            NodeKind::Directory(_) => Err("it is a hard link to a directory"),
            NodeKind::Symlink(_) => Err("it is a hard link to a symbolic link"),
            _ => Ok(at),
        }
    }
}

/// A directory that no entry describes.
fn default_meta() -> NodeMeta {
    NodeMeta {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: BTreeMap::new(),
    }
}

fn node_kind(entry: &Entry, content: Option<Content>) -> Result<NodeKind, &'static str> {
    let device = |major: u32, minor: u32| {
        if major > MAJOR_MAX || minor > MINOR_MAX {
            return Err("its device number is not in range");
        }
        Ok((major, minor))
    };
    Ok(match entry.kind {
        Kind::Directory => NodeKind::Directory(BTreeMap::new()),
        Kind::File => NodeKind::File(content.ok_or("it has no content")?),
        Kind::Symlink => {
            let target = std::str::from_utf8(&entry.link)
                .map_err(|_| "it is a link to a name that is not UTF-8")?;
            if target.is_empty() || target.len() >= PATH_MAX || target.contains('\0') {
                return Err("it is a link to an empty or too long path");
            }
            NodeKind::Symlink(target.to_owned())
        }
        Kind::Char { major, minor } => {
            device(major, minor).map(|(major, minor)| NodeKind::Char { major, minor })?
        }
        Kind::Block { major, minor } => {
            device(major, minor).map(|(major, minor)| NodeKind::Block { major, minor })?
        }
        Kind::Fifo => NodeKind::Fifo,
        Kind::Hardlink => return Err("a hard link is not a file of its own"),
    })
}

/// The names that a path is made of; none for the root. `.` and doubled slashes mean nothing.
pub(crate) fn split_path(path: &[u8]) -> Result<Vec<&str>, &'static str> {
    if path.len() > PATH_MAX {
        return Err("its path is longer than 4096 bytes");
    }
    if path.is_empty() {
        return Err("its path is empty");
    }
    if path.starts_with(b"/") {
        return Err("its path is absolute");
    }
    let path = std::str::from_utf8(path).map_err(|_| "its name is not UTF-8")?;
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err("its path contains \"..\""),
            name if name.len() > NAME_MAX => return Err("its name is longer than 255 bytes"),
            name if name.contains('\0') => return Err("its name contains a NUL"),
            name => names.push(name),
        }
    }
    Ok(names)
}

fn meta_of(entry: &Entry) -> Result<NodeMeta, ImagesError> {
    let refuse = |reason: String| ImagesError::entry(&entry.path, reason);
    if !SECONDS.contains(&entry.mtime.0) {
        return Err(refuse(format!(
            "its time {} is not in range",
            entry.mtime.0
        )));
    }
    let mut xattrs = BTreeMap::new();
    let mut total = 0;
    for (name, value) in &entry.xattrs {
        let reason = |why: &str| refuse(format!("its extended attribute {name:?} {why}"));
        let is_known = ["user.", "trusted.", "security."].iter().any(|space| {
            name.strip_prefix(space)
                .is_some_and(|rest| !rest.is_empty())
        });
        let is_acl = matches!(
            name.as_str(),
            "system.posix_acl_access" | "system.posix_acl_default"
        );
        let value = if is_acl {
            acl_on_disk(value).ok_or_else(|| reason("is not an access control list"))?
        } else {
            value.clone()
        };
        if !(is_known || is_acl) {
            return Err(reason(
                "is in none of the namespaces user, trusted and security",
            ));
        }
        if name.len() > NAME_MAX || name.contains('\0') {
            return Err(reason("has too long a name"));
        }
        total += value.len() + name.len() + 20;
        if total > XATTR_MAX {
            return Err(reason("does not fit: all of a file's must fit in 4 KiB"));
        }
        xattrs.insert(name.clone(), value);
    }
    Ok(NodeMeta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
    })
}

/// Turns an access control list as system calls and archives have it (version 2, every entry with an
/// id) into ext4's own form (version 1, ids only where they mean something).
fn acl_on_disk(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let entries = value.strip_prefix(&[2, 0, 0, 0])?;
    if entries.len() % 8 != 0 {
        return None;
    }
    let mut output = vec![1, 0, 0, 0];
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        output.extend(&entry[..4]);
        match tag {
            USER | GROUP => output.extend(&entry[4..]),
            0x01 | 0x04 | 0x10 | 0x20 => {}
            _ => return None,
        }
    }
    Some(output)
}
