//! The first pass over a spooled archive: every entry is checked and put into a [`Tree`], every file's
//! content is hashed. The result is known whole before a byte of the image is written.

use crate::ImagesError;
use crate::limits::Limits;
use crate::progress::Step;
use crate::tar_reader::{Entry, Kind, TarReader};
use crate::tree::{Content, NodeId, NodeKind, ROOT, Tree};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::Read;

/// What to do with an archive's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Take it as it is.
    Keep,
    /// Leave it out, and what is below it.
    Drop,
    /// Take it without its content.
    Empty,
}

/// Says what to do with the entry of a path (without leading `./`) and kind.
pub(crate) type Rules = fn(&str, Kind) -> Rule;

/// For archives that are taken as they are.
pub(crate) fn keep_all(_: &str, _: Kind) -> Rule {
    Rule::Keep
}

/// Reads an archive into a tree.
pub(crate) fn scan<R: Read>(
    tar: &mut TarReader<R>,
    rules: Rules,
    limits: &Limits,
    step: &mut Step<'_>,
) -> Result<Tree, ImagesError> {
    let mut tree = Tree::new();
    let (mut entries, mut bytes, mut kept) = (0_u64, 0_u64, 0_u64);
    let mut buffer = vec![0; 1 << 16];
    while let Some(mut entry) = tar.next_entry()? {
        step.advance(entry.position)?;
        entries += 1;
        bytes = bytes.saturating_add(entry.size);
        if entries > limits.tar_entries {
            let cap = limits.tar_entries;
            return Err(ImagesError::entry(
                &entry.path,
                format!("the archive has more than {cap} entries"),
            ));
        }
        if bytes > limits.tar_bytes {
            let cap = limits.tar_bytes;
            return Err(ImagesError::entry(
                &entry.path,
                format!("the archive's files have more than {cap} bytes"),
            ));
        }
        kept = kept.saturating_add(kept_bytes(&entry));
        if kept > limits.tree_bytes {
            let cap = limits.tree_bytes;
            return Err(ImagesError::entry(
                &entry.path,
                format!("the archive's names, links and attributes have more than {cap} bytes"),
            ));
        }
        let path = String::from_utf8_lossy(&entry.path);
        match rules(
            path.trim_start_matches("./").trim_end_matches('/'),
            entry.kind,
        ) {
            Rule::Drop => continue,
            Rule::Keep => {}
            Rule::Empty => {
                entry.size = 0;
                tree.add(&entry, Some(empty_content()))?;
                continue;
            }
        }
        let content = match entry.kind {
            Kind::File => Some(hash_content(tar, &entry, &mut buffer, step)?),
            _ => None,
        };
        tree.add(&entry, content)?;
        // A path brings along the directories that no entry describes. The root is not counted.
        if tree.len() as u64 - 1 > limits.tar_entries {
            let cap = limits.tar_entries;
            return Err(ImagesError::entry(
                &entry.path,
                format!("the archive's paths have more than {cap} files and directories"),
            ));
        }
    }
    Ok(tree)
}

/// What of an entry stays in memory, its content aside.
fn kept_bytes(entry: &Entry) -> u64 {
    let xattrs = entry.xattrs.iter();
    let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
    (entry.path.len() + entry.link.len() + xattrs) as u64
}

fn empty_content() -> Content {
    Content {
        position: 0,
        size: 0,
        sha256: Sha256::digest([]).into(),
    }
}

fn hash_content<R: Read>(
    tar: &mut TarReader<R>,
    entry: &Entry,
    buffer: &mut [u8],
    step: &mut Step<'_>,
) -> Result<Content, ImagesError> {
    let mut hash = Sha256::new();
    let mut done = entry.position;
    while tar.has_content() {
        let count = tar.read(buffer)?;
        hash.update(&buffer[..count]);
        done += count as u64;
        step.advance(done)?;
    }
    Ok(Content {
        position: entry.position,
        size: entry.size,
        sha256: hash.finalize().into(),
    })
}

/// A hash of all that an image made from the tree depends on: the same tree gives the same image,
/// in whatever order and form its archive had it.
pub(crate) fn identity(tree: &Tree) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut first_names: HashMap<NodeId, u64> = HashMap::new();
    let mut pending = vec![("/".to_owned(), ROOT)];
    let text = |hash: &mut Sha256, bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    while let Some((name, id)) = pending.pop() {
        text(&mut hash, name.as_bytes());
        let number = first_names.len() as u64;
        if let Some(first) = first_names.get(&id) {
            hash.update([b'l']);
            hash.update(first.to_le_bytes());
            continue;
        }
        first_names.insert(id, number);
        let node = tree.node(id);
        hash.update(node.meta.mode.to_le_bytes());
        hash.update(node.meta.uid.to_le_bytes());
        hash.update(node.meta.gid.to_le_bytes());
        hash.update(node.meta.mtime.0.to_le_bytes());
        hash.update(node.meta.mtime.1.to_le_bytes());
        hash.update((node.meta.xattrs.len() as u64).to_le_bytes());
        for (key, value) in &node.meta.xattrs {
            text(&mut hash, key.as_bytes());
            text(&mut hash, value);
        }
        match &node.kind {
            NodeKind::Directory(children) => {
                hash.update([b'd']);
                hash.update((children.len() as u64).to_le_bytes());
                let below = children.iter().rev();
                pending.extend(below.map(|(name, id)| (name.clone(), *id)));
            }
            NodeKind::File(content) => {
                hash.update([b'f']);
                hash.update(content.size.to_le_bytes());
                hash.update(content.sha256);
            }
            NodeKind::Symlink(target) => {
                hash.update([b's']);
                text(&mut hash, target.as_bytes());
            }
            NodeKind::Char { major, minor } => {
                hash.update([b'c']);
                hash.update(major.to_le_bytes());
                hash.update(minor.to_le_bytes());
            }
            NodeKind::Block { major, minor } => {
                hash.update([b'b']);
                hash.update(major.to_le_bytes());
                hash.update(minor.to_le_bytes());
            }
            NodeKind::Fifo => hash.update([b'p']),
        }
    }
    hash.finalize().into()
}
