//! A kernel on its way into the store: its files are gathered in a scratch directory, then committed
//! under a name in one step.

use crate::files::{create_directories, create_new, read_capped, write_new};
use crate::index::write_durably;
use crate::kernel::{RECORD, Record, now_unix};
use crate::modules::{module_name, regular_files};
use crate::progress::{ProgressSink, Step};
use crate::scratch::Scratch;
use crate::tar_reader::{Entry, Kind, TarReader};
use crate::{ImagesError, Kernel, Store, deb};
use banger_names::{Digest, KernelName};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The longest list file kept beside the modules (`modules.builtin` and the like).
const LIST_MAX: u64 = 16 << 20;

/// A kernel being put together in a scratch directory.
pub(crate) struct Draft {
    scratch: Scratch,
    version: String,
    pub(crate) has_vmlinuz: bool,
    has_modules: bool,
}

impl Draft {
    /// An empty draft in this scratch.
    pub(crate) fn create(scratch: Scratch, version: String) -> Result<Self, ImagesError> {
        let directory = scratch.join("kernel");
        create_directories(&directory)?;
        Ok(Self {
            scratch,
            version,
            has_vmlinuz: false,
            has_modules: false,
        })
    }

    /// Where a file of the kernel goes.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.join("kernel").join(name)
    }

    /// Takes the kernel and its modules out of a package; everything else in it is passed over.
    pub(crate) fn unpack_package(
        &mut self,
        package: &Path,
        store: &Store,
        sink: &dyn ProgressSink,
    ) -> Result<(), ImagesError> {
        let total = fs::metadata(package).map(|meta| meta.len()).ok();
        let mut step = Step::begin(sink, "unpack kernel", self.version.clone(), total);
        let (mut tar, done) = deb::open(package)?;
        let vmlinuz = format!("boot/vmlinuz-{}", self.version);
        let modules = format!("lib/modules/{}/", self.version);
        let (mut entries, mut bytes) = (0, 0);
        while let Some(entry) = tar.next_entry()? {
            step.advance(done.get())?;
            entries += 1;
            bytes += entry.size;
            if entries > store.limits().tar_entries || bytes > store.limits().modules_bytes {
                return Err(ImagesError::refused(
                    package.display().to_string(),
                    "it is too large",
                ));
            }
            if entry.kind != Kind::File {
                continue;
            }
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            let path = path.trim_start_matches("./");
            let path = path.strip_prefix("usr/").unwrap_or(path);
            if path == vmlinuz {
                write_entry(
                    &mut tar,
                    &entry,
                    &self.path("vmlinuz"),
                    store.limits().bzimage_bytes,
                )?;
                self.has_vmlinuz = true;
            } else if let Some(file) = path.strip_prefix(&modules) {
                self.add_module_file(
                    file,
                    |target, cap| write_entry(&mut tar, &entry, target, cap),
                    store,
                )?;
            }
        }
        if !self.has_vmlinuz {
            return Err(ImagesError::refused(
                package.display().to_string(),
                format!("it has no {vmlinuz}"),
            ));
        }
        Ok(())
    }

    /// Copies the module files below a `/lib/modules/VERSION` directory.
    pub(crate) fn copy_modules(
        &mut self,
        directory: &Path,
        store: &Store,
        sink: &dyn ProgressSink,
    ) -> Result<(), ImagesError> {
        let mut step = Step::begin(
            sink,
            "import modules",
            directory.display().to_string(),
            None,
        );
        let mut bytes = 0;
        for file in regular_files(directory)? {
            step.advance(bytes)?;
            let from = directory.join(&file);
            self.add_module_file(
                &file,
                |target, cap| {
                    let content = read_capped(&from, cap)?;
                    bytes += content.len() as u64;
                    write_new(target, &content)
                },
                store,
            )?;
            if bytes > store.limits().modules_bytes {
                return Err(ImagesError::refused(
                    directory.display().to_string(),
                    "it is too large",
                ));
            }
        }
        if !self.has_modules {
            return Err(ImagesError::refused(
                directory.display().to_string(),
                "there are no kernel modules below it",
            ));
        }
        Ok(())
    }

    /// Lets `write` make one file below `modules/` if it is a module or a list that is needed.
    /// The directory is ours and gets regular files only, so a checked relative path cannot leave it.
    fn add_module_file(
        &mut self,
        path: &str,
        write: impl FnOnce(&Path, u64) -> Result<(), ImagesError>,
        store: &Store,
    ) -> Result<(), ImagesError> {
        let is_module = module_name(path).is_some();
        let is_list = matches!(path, "modules.builtin" | "modules.dep" | "modules.order");
        if !is_module && !is_list {
            return Ok(());
        }
        let is_confined = path.len() <= 1024
            && path.split('/').all(|part| {
                !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains('\0')
            });
        if !is_confined {
            return Err(ImagesError::entry(
                path.as_bytes(),
                "its path leaves the modules directory",
            ));
        }
        let target = self.path("modules").join(path);
        if let Some(parent) = target.parent() {
            create_directories(parent)?;
        }
        self.has_modules |= is_module;
        let cap = if is_list {
            LIST_MAX
        } else {
            store.limits().module_bytes
        };
        write(&target, cap)
    }

    /// Hashes, flushes, and moves the draft into the store under `name`.
    pub(crate) fn commit(
        self,
        store: &Store,
        name: KernelName,
        source: String,
        sink: &dyn ProgressSink,
    ) -> Result<Kernel, ImagesError> {
        let step = Step::begin(sink, "store kernel", name.to_string(), None);
        let directory = self.scratch.join("kernel");
        let mut whole = Sha256::new();
        let mut size = 0;
        for file in regular_files(&directory)? {
            step.check()?;
            let path = directory.join(&file);
            let content = fs::read(&path).map_err(ImagesError::io("read", &path))?;
            size += content.len() as u64;
            whole.update(file.as_bytes());
            whole.update([0]);
            whole.update(Sha256::digest(&content));
        }
        let key = Digest::from_sha256(whole.finalize().into());
        let path = self.path("vmlinux");
        let vmlinux = fs::read(&path).map_err(ImagesError::io("read", &path))?;
        let record = Record {
            digest: Digest::from_sha256(Sha256::digest(&vmlinux).into()),
            version: self.version,
            size,
            created_unix: now_unix(),
            source,
            has_vmlinuz: self.has_vmlinuz,
            has_modules: self.has_modules,
        };
        let text = serde_json::to_vec_pretty(&record).expect("a record has only string keys");
        write_durably(&self.scratch.join("record"), &directory.join(RECORD), &text)?;
        // One flush of the file system instead of one for each of a thousand modules.
        File::open(&directory)
            .and_then(|file| Ok(rustix::fs::syncfs(&file)?))
            .map_err(ImagesError::io("flush", &directory))?;
        let _lock = store.lock()?;
        let mut index = store.index()?;
        if let Some(old) = index.kernels.insert(name.clone(), key.clone())
            && old != key
        {
            // Something may still be made of the old content; it stays, under a name that says so.
            let kept = format!(
                "{}.{}",
                &name.as_str()[..name.as_str().len().min(50)],
                old.short()
            );
            index.kernels.insert(KernelName::parse(&kept)?, old);
        }
        let default = index
            .default_kernel
            .get_or_insert_with(|| name.clone())
            .clone();
        store.place(&directory, &store.kernel_directory(&key), &index)?;
        let is_default = default == name;
        store.read_kernel(name, key, is_default)
    }
}

/// Writes a tar entry's content to a new file.
fn write_entry<R: Read>(
    tar: &mut TarReader<R>,
    entry: &Entry,
    path: &Path,
    cap: u64,
) -> Result<(), ImagesError> {
    if entry.size > cap {
        return Err(ImagesError::entry(
            &entry.path,
            format!("it has {} bytes, more than {cap}", entry.size),
        ));
    }
    let mut file = create_new(path)?;
    let mut buffer = vec![0; 1 << 16];
    while tar.has_content() {
        let count = tar.read(&mut buffer)?;
        file.write_all(&buffer[..count])
            .map_err(ImagesError::io("write", path))?;
    }
    Ok(())
}
