//! Images: root file systems as ext4 files, kept by digest, called by tag, never written again.

use crate::codec::{Compression, Counted, Decoder, is_bomb};
use crate::ext4;
use crate::files::{create_new, open_regular, private_file};
use crate::index::write_durably;
use crate::kernel::{has_prefix, now_unix};
use crate::progress::{ProgressSink, Step};
use crate::scratch::Scratch;
use crate::sparse::{self, SparseWriter};
use crate::store::content_keys;
use crate::tar_reader::TarReader;
use crate::tree_scan::{Rules, identity, keep_all, scan};
use crate::{ImagesError, Store, raw_ext4};
use banger_names::{Digest, Tag};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const RECORD: &str = "image.json";
const ROOTFS: &str = "rootfs.ext4";
/// How much is spooled between two looks at the free space.
const SPACE_INTERVAL: u64 = 64 << 20;
/// What an archive's headers may add to its files, for each entry.
const HEADERS_PER_ENTRY: u64 = 2048;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// What it is called; an image whose tag was given to another has none.
    pub tags: Vec<Tag>,
    /// The SHA-256 of the ext4 file.
    pub digest: Digest,
    /// Bytes of the ext4 file, holes included.
    pub size: u64,
    /// Bytes that it takes on disk.
    pub disk_usage: u64,
    /// When it was stored, in seconds since 1970.
    pub created_unix: u64,
    /// Where it came from, for display.
    pub source: String,
    #[serde(skip)]
    directory: PathBuf,
}

impl Image {
    /// The ext4 file, mode 0400.
    pub fn path(&self) -> PathBuf {
        self.directory.join(ROOTFS)
    }
}

/// What is kept beside an image's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    digest: Digest,
    size: u64,
    created_unix: u64,
    source: String,
}

impl Store {
    /// Stores a root file system of the user's: a tar archive (also compressed with gzip, xz or
    /// zstd) or an ext4 image.
    pub fn image_import(
        &self,
        file: &Path,
        tag: &Tag,
        progress: &dyn ProgressSink,
    ) -> Result<Image, ImagesError> {
        let source = open_regular(file)?;
        let shown = file.display().to_string();
        let mut head = Vec::new();
        let read = (&source).take(512).read_to_end(&mut head);
        read.map_err(ImagesError::io("read", file))?;
        if head.is_empty() {
            return Err(ImagesError::refused(shown, "it is empty"));
        }
        if let Some(other) = raw_ext4::foreign_format(&head) {
            let reason =
                format!("it is {other}; only tar archives and raw ext4 images can be imported");
            return Err(ImagesError::refused(shown, reason));
        }
        let is_tar = head.get(257..262) == Some(b"ustar");
        let is_raw = Compression::of(&head) == Compression::None
            && !is_tar
            && raw_ext4::has_superblock(&source).map_err(ImagesError::io("read", file))?;
        let scratch = self.scratch()?;
        let source_text = format!("imported from {shown}");
        if is_raw {
            self.import_raw(&source, file, &scratch, progress)?;
        } else {
            let archive = self.spool(&source, file, &scratch, progress)?;
            self.build_from_tar(&archive, &shown, keep_all, &scratch, progress)?;
        }
        self.commit_image(&scratch, tag, source_text, progress)
    }

    /// All images: those with tags by tag, then the others.
    pub fn images(&self) -> Result<Vec<Image>, ImagesError> {
        let index = self.index()?;
        let mut images = Vec::new();
        for digest in content_keys(&self.data().join("images"))? {
            let tags = index.tags.iter().filter(|(_, found)| **found == digest);
            let tags = tags.map(|(tag, _)| tag.clone()).collect();
            match self.read_image(&digest, tags) {
                // Removed since the directory was listed.
                Err(error) if error.is_absent() => {}
                read => images.push(read?),
            }
        }
        images.sort_by(|a, b| (a.tags.is_empty(), &a.tags).cmp(&(b.tags.is_empty(), &b.tags)));
        Ok(images)
    }

    /// The image of this tag, or whose digest begins so.
    pub fn image(&self, tag_or_digest_prefix: &str) -> Result<Image, ImagesError> {
        let images = self.images()?;
        let has_tag = |image: &&Image| {
            image
                .tags
                .iter()
                .any(|tag| tag.as_str() == tag_or_digest_prefix)
        };
        if let Some(found) = images.iter().find(has_tag) {
            return Ok(found.clone());
        }
        let mut found: Vec<Image> = images
            .into_iter()
            .filter(|image| has_prefix(&image.digest, tag_or_digest_prefix))
            .collect();
        let name = tag_or_digest_prefix.to_owned();
        match (found.len(), found.pop()) {
            (1, Some(image)) => Ok(image),
            (0, _) | (_, None) => Err(ImagesError::NotFound {
                kind: "image",
                name,
            }),
            (count, _) => Err(ImagesError::Ambiguous {
                kind: "image",
                name,
                count,
            }),
        }
    }

    /// Gives an image that is in the store one more tag; another image that had it loses it.
    pub fn image_tag(&self, tag_or_digest_prefix: &str, tag: &Tag) -> Result<Image, ImagesError> {
        let _lock = self.lock()?;
        let digest = self.image(tag_or_digest_prefix)?.digest;
        let mut index = self.index()?;
        index.tags.insert(tag.clone(), digest);
        index.write(self.data())?;
        self.image(tag.as_str())
    }

    /// Removes a tag, and the image when it has no other; by digest, the image with all its tags.
    /// Files that are open stay usable until they are closed.
    pub fn image_remove(&self, tag_or_digest_prefix: &str) -> Result<(), ImagesError> {
        let _lock = self.lock()?;
        let image = self.image(tag_or_digest_prefix)?;
        let mut index = self.index()?;
        let named = image
            .tags
            .iter()
            .find(|tag| tag.as_str() == tag_or_digest_prefix);
        match named {
            Some(tag) => {
                index.tags.remove(tag);
            }
            None => index.tags.retain(|_, digest| *digest != image.digest),
        }
        index.write(self.data())?;
        if index.tags.values().any(|digest| *digest == image.digest) {
            return Ok(());
        }
        self.discard(&image.directory)
    }

    fn read_image(&self, digest: &Digest, tags: Vec<Tag>) -> Result<Image, ImagesError> {
        let directory = self.data().join("images").join(digest.hex());
        let path = directory.join(RECORD);
        let text = fs::read(&path).map_err(ImagesError::io("read", &path))?;
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| ImagesError::refused(path.display().to_string(), error.to_string()))?;
        let rootfs = directory.join(ROOTFS);
        let meta = fs::metadata(&rootfs).map_err(ImagesError::io("read", &rootfs))?;
        Ok(Image {
            tags,
            digest: record.digest,
            size: record.size,
            disk_usage: meta.blocks() * 512,
            created_unix: record.created_unix,
            source: record.source,
            directory,
        })
    }

    /// Copies an ext4 image into the scratch.
    fn import_raw(
        &self,
        source: &File,
        shown: &Path,
        scratch: &Scratch,
        progress: &dyn ProgressSink,
    ) -> Result<(), ImagesError> {
        let meta = source.metadata().map_err(ImagesError::io("read", shown))?;
        let refuse = |reason: String| ImagesError::refused(shown.display().to_string(), reason);
        if meta.len() > self.limits().image_bytes {
            return Err(refuse(format!("it has {} bytes", meta.len())));
        }
        raw_ext4::check(source, meta.len()).map_err(refuse)?;
        self.check_space(meta.blocks() * 512)?;
        let (output, path) = new_rootfs(scratch)?;
        let mut step = Step::begin(progress, "import image", "copying", Some(meta.len()));
        sparse::copy(source, &output, meta.len(), &mut step).map_err(|error| error.at(&path))?;
        // What was checked may have been changed while it was copied; the copy cannot be.
        raw_ext4::check(&output, meta.len()).map_err(refuse)
    }

    /// Unpacks an archive's compression into a file of the scratch.
    fn spool(
        &self,
        source: &File,
        shown: &Path,
        scratch: &Scratch,
        progress: &dyn ProgressSink,
    ) -> Result<File, ImagesError> {
        let length = source.metadata().map(|meta| meta.len()).ok();
        let mut step = Step::begin(progress, "import image", "reading archive", length);
        let refuse = |reason: String| ImagesError::refused(shown.display().to_string(), reason);
        let mut head = [0; 8];
        let count = source
            .read_at(&mut head, 0)
            .map_err(ImagesError::io("read", shown))?;
        let compression = Compression::of(&head[..count]);
        rustix::fs::seek(source, rustix::fs::SeekFrom::Start(0))
            .map_err(|error| ImagesError::io("read", shown)(error.into()))?;
        let (counted, read) = Counted::new(source);
        let damaged = |error: std::io::Error| match error.raw_os_error() {
            Some(_) => ImagesError::io("read", shown)(error),
            None => refuse(format!("its compression is damaged: {error}")),
        };
        let mut input = Decoder::new(BufReader::with_capacity(1 << 16, counted), compression)
            .map_err(damaged)?;
        let path = scratch.join("archive.tar");
        let output = private_file(&path)?;
        let mut writer = SparseWriter::new(&output);
        let limits = self.limits();
        let cap = limits.tar_bytes + limits.tar_entries * HEADERS_PER_ENTRY;
        let mut buffer = vec![0; 1 << 20];
        let (mut total, mut checked) = (0, 0);
        self.check_space(0)?;
        loop {
            step.advance(read.get())?;
            let count = input.read(&mut buffer).map_err(damaged)?;
            if count == 0 {
                break;
            }
            total += count as u64;
            if total > cap {
                return Err(refuse(format!("it unpacks to more than {cap} bytes")));
            }
            if compression != Compression::None && is_bomb(limits, read.get(), total) {
                return Err(refuse(format!(
                    "it looks like a decompression bomb: {} bytes unpack to {total}",
                    read.get()
                )));
            }
            if total - checked > SPACE_INTERVAL {
                checked = total;
                self.check_space(0)?;
            }
            writer
                .write_all(&buffer[..count])
                .map_err(ImagesError::io("write", &path))?;
        }
        writer.finish().map_err(ImagesError::io("write", &path))?;
        Ok(output)
    }

    /// Builds `rootfs.ext4` in the scratch from a spooled archive.
    pub(crate) fn build_from_tar(
        &self,
        archive: &File,
        shown: &str,
        rules: Rules,
        scratch: &Scratch,
        progress: &dyn ProgressSink,
    ) -> Result<(), ImagesError> {
        rustix::fs::seek(archive, rustix::fs::SeekFrom::Start(0))
            .map_err(|error| ImagesError::io("read", Path::new(shown))(error.into()))?;
        let length = archive.metadata().map(|meta| meta.len()).ok();
        let mut step = Step::begin(progress, "build file system", "checking archive", length);
        let mut tar = TarReader::new(BufReader::with_capacity(1 << 20, archive), shown);
        let tree = scan(&mut tar, rules, self.limits(), &mut step)?;
        self.check_space(ext4::estimate(&tree))?;
        let (output, path) = new_rootfs(scratch)?;
        let source = ext4::Source {
            tree: &tree,
            archive,
            identity: identity(&tree),
        };
        ext4::build(&source, &output, &path, &mut step)?;
        Ok(())
    }

    /// Hashes and flushes the scratch's image and moves it into the store under `tag`.
    pub(crate) fn commit_image(
        &self,
        scratch: &Scratch,
        tag: &Tag,
        source: String,
        progress: &dyn ProgressSink,
    ) -> Result<Image, ImagesError> {
        let directory = scratch.join("image");
        let path = directory.join(ROOTFS);
        let file = File::open(&path).map_err(ImagesError::io("open", &path))?;
        let size = file
            .metadata()
            .map_err(ImagesError::io("read", &path))?
            .len();
        let mut step = Step::begin(progress, "store image", tag.to_string(), Some(size));
        let digest = sparse::digest(&file, size, &mut step).map_err(|error| error.at(&path))?;
        file.sync_all().map_err(ImagesError::io("flush", &path))?;
        let record = Record {
            digest: digest.clone(),
            size,
            created_unix: now_unix(),
            source,
        };
        let text = serde_json::to_vec_pretty(&record).expect("a record has only string keys");
        write_durably(&scratch.join("record"), &directory.join(RECORD), &text)?;
        crate::scratch::sync_directory(&directory)?;
        step.check()?;
        let _lock = self.lock()?;
        let target = self.data().join("images").join(digest.hex());
        let mut index = self.index()?;
        index.tags.insert(tag.clone(), digest);
        self.place(&directory, &target, &index)?;
        self.image(tag.as_str())
    }
}

/// Makes the scratch's `image/rootfs.ext4`.
fn new_rootfs(scratch: &Scratch) -> Result<(File, PathBuf), ImagesError> {
    let directory = scratch.join("image");
    DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .map_err(ImagesError::io("create", &directory))?;
    let path = directory.join(ROOTFS);
    Ok((create_new(&path)?, path))
}
