//! Kernels: pulled from Debian or imported, kept by content, called by name.

use crate::apt::{Lists, PrivateApt};
use crate::files::{read_capped, write_new};
use crate::kernel_draft::Draft;
use crate::progress::{ProgressSink, Step};
use crate::source::DebianSource;
use crate::vmlinux::{self, Format};
use crate::{ImagesError, Store, elf};
use banger_names::{Digest, KernelName};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Debian's package that always depends on the newest kernel for virtual machines.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// The file with what is kept beside a kernel's files.
pub(crate) const RECORD: &str = "kernel.json";

/// A kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// What it is called.
    pub name: KernelName,
    /// The SHA-256 of its `vmlinux`.
    pub digest: Digest,
    /// What `uname -r` says in it, or empty if that is not known.
    pub version: String,
    /// Bytes that it takes with its modules.
    pub size: u64,
    /// When it was stored, in seconds since 1970.
    pub created_unix: u64,
    /// Whether it is used when none is named.
    pub is_default: bool,
    /// Where it came from, for display.
    pub source: String,
    #[serde(skip)]
    has_vmlinuz: bool,
    #[serde(skip)]
    has_modules: bool,
    /// Names this content: `vmlinux`, `vmlinuz` and modules together.
    #[serde(skip)]
    key: Digest,
    #[serde(skip)]
    directory: PathBuf,
}

impl Kernel {
    /// The ELF kernel.
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The bzImage that it came in, if it did.
    pub fn vmlinuz(&self) -> Option<PathBuf> {
        self.has_vmlinuz.then(|| self.directory.join("vmlinuz"))
    }

    /// Its modules, as in `/lib/modules/VERSION`, if it has any.
    pub fn modules_dir(&self) -> Option<PathBuf> {
        self.has_modules.then(|| self.directory.join("modules"))
    }

    /// Where the list of what is built in lies: beside the modules, or alone for a kernel that was
    /// built without any; `None` where nothing is known.
    pub(crate) fn module_lists(&self) -> Option<PathBuf> {
        let directory = self.directory.join("modules");
        (self.has_modules || directory.join("modules.builtin").is_file()).then_some(directory)
    }

    /// Names the whole content, modules and all.
    pub(crate) fn key(&self) -> &Digest {
        &self.key
    }
}

/// What is kept beside a kernel's files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) digest: Digest,
    pub(crate) version: String,
    pub(crate) size: u64,
    pub(crate) created_unix: u64,
    pub(crate) source: String,
    pub(crate) has_vmlinuz: bool,
    pub(crate) has_modules: bool,
}

impl Store {
    /// Fetches Debian's kernel for virtual machines, verified by the archive's signatures, takes its
    /// `vmlinux` out and keeps its modules. The first kernel becomes the default.
    pub fn kernel_pull(
        &self,
        source: &DebianSource,
        progress: &dyn ProgressSink,
    ) -> Result<Kernel, ImagesError> {
        self.check_space(self.limits().bzimage_bytes * 4)?;
        let scratch = self.scratch()?;
        let apt = PrivateApt::create(scratch.join("apt"), source)?;
        apt.update(Lists::Packages, progress)?;
        let package = apt.dependency(METAPACKAGE, "linux-image-", progress)?;
        let file = apt.download(&package, "download kernel", progress)?;
        let origin = file.file_name().unwrap_or_default().to_string_lossy();
        let origin = format!("{} ({})", source.describe(), origin.replace("%3a", ":"));
        let version = package.trim_start_matches("linux-image-").to_owned();
        let name = KernelName::parse(&version)?;
        let mut draft = Draft::create(scratch, version)?;
        draft.unpack_package(&file, self, progress)?;
        let vmlinuz = draft.path("vmlinuz");
        let bytes = read_capped(&vmlinuz, self.limits().bzimage_bytes)?;
        let vmlinux = vmlinux::extract(&bytes, self.limits().vmlinux_bytes)
            .map_err(|reason| ImagesError::refused(package, reason))?;
        write_new(&draft.path("vmlinux"), &vmlinux)?;
        draft.commit(self, name, origin, progress)
    }

    /// Stores a kernel of the user's: an ELF `vmlinux` or a bzImage, and the modules from a
    /// `/lib/modules/VERSION` directory. A kernel that had the name keeps its content under another.
    pub fn kernel_import(
        &self,
        file: &Path,
        modules: Option<&Path>,
        name: &KernelName,
        progress: &dyn ProgressSink,
    ) -> Result<Kernel, ImagesError> {
        let shown = file.display().to_string();
        let refuse = |reason: String| ImagesError::refused(shown.clone(), reason);
        let _step = Step::begin(progress, "import kernel", shown.clone(), None);
        let bytes = read_capped(file, self.limits().vmlinux_bytes)?;
        let format = vmlinux::format(&bytes).map_err(refuse)?;
        let version = modules
            .and_then(Path::file_name)
            .map(|version| version.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut draft = Draft::create(self.scratch()?, version)?;
        match format {
            Format::Elf => {
                elf::check_executable(&bytes).map_err(refuse)?;
                write_new(&draft.path("vmlinux"), &bytes)?;
            }
            Format::BzImage => {
                let vmlinux =
                    vmlinux::extract(&bytes, self.limits().vmlinux_bytes).map_err(refuse)?;
                write_new(&draft.path("vmlinux"), &vmlinux)?;
                write_new(&draft.path("vmlinuz"), &bytes)?;
                draft.has_vmlinuz = true;
            }
        }
        if let Some(directory) = modules {
            draft.copy_modules(directory, self, progress)?;
        }
        draft.commit(
            self,
            name.clone(),
            format!("imported from {shown}"),
            progress,
        )
    }

    /// All kernels, by name.
    pub fn kernels(&self) -> Result<Vec<Kernel>, ImagesError> {
        let index = self.index()?;
        let default = index.default_kernel;
        let mut kernels = Vec::new();
        for (name, key) in index.kernels {
            let is_default = default.as_ref() == Some(&name);
            match self.read_kernel(name, key, is_default) {
                // Removed since the index was read.
                Err(error) if error.is_absent() => {}
                read => kernels.push(read?),
            }
        }
        Ok(kernels)
    }

    /// The kernel of this name, or whose digest begins so.
    pub fn kernel(&self, name_or_digest_prefix: &str) -> Result<Kernel, ImagesError> {
        let kernels = self.kernels()?;
        if let Some(found) = kernels
            .iter()
            .find(|kernel| kernel.name.as_str() == name_or_digest_prefix)
        {
            return Ok(found.clone());
        }
        let fits = |kernel: &Kernel| has_prefix(&kernel.digest, name_or_digest_prefix);
        let mut found: Vec<Kernel> = kernels.into_iter().filter(fits).collect();
        // One vmlinux with different modules under different names is one digest: any will do, the default first.
        found.sort_by_key(|kernel| !kernel.is_default);
        let count = found.len();
        found.dedup_by(|a, b| a.digest == b.digest);
        match (found.len(), found.pop()) {
            (1, Some(kernel)) => Ok(kernel),
            (0, _) | (_, None) => Err(ImagesError::NotFound {
                kind: "kernel",
                name: name_or_digest_prefix.to_owned(),
            }),
            _ => Err(ImagesError::Ambiguous {
                kind: "kernel",
                name: name_or_digest_prefix.to_owned(),
                count,
            }),
        }
    }

    /// Removes a kernel, and its content when no other name means it.
    pub fn kernel_remove(&self, name: &KernelName) -> Result<(), ImagesError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let Some(key) = index.kernels.remove(name) else {
            return Err(not_found(name));
        };
        if index.default_kernel.as_ref() == Some(name) {
            index.default_kernel = None;
        }
        index.write(self.data())?;
        if !index.kernels.values().any(|other| *other == key) {
            self.discard(&self.kernel_directory(&key))?;
        }
        Ok(())
    }

    /// The kernel used when none is named.
    pub fn kernel_default(&self) -> Result<Option<KernelName>, ImagesError> {
        Ok(self.index()?.default_kernel)
    }

    /// Makes a kernel the default.
    pub fn set_kernel_default(&self, name: &KernelName) -> Result<(), ImagesError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        if !index.kernels.contains_key(name) {
            return Err(not_found(name));
        }
        index.default_kernel = Some(name.clone());
        index.write(self.data())
    }

    /// Where a content is.
    pub(crate) fn kernel_directory(&self, key: &Digest) -> PathBuf {
        self.data().join("kernels").join(key.hex())
    }

    /// Reads what is kept of a content.
    pub(crate) fn read_kernel(
        &self,
        name: KernelName,
        key: Digest,
        is_default: bool,
    ) -> Result<Kernel, ImagesError> {
        let directory = self.kernel_directory(&key);
        let path = directory.join(RECORD);
        let text = fs::read(&path).map_err(ImagesError::io("read", &path))?;
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| ImagesError::refused(path.display().to_string(), error.to_string()))?;
        Ok(Kernel {
            name,
            digest: record.digest,
            version: record.version,
            size: record.size,
            created_unix: record.created_unix,
            is_default,
            source: record.source,
            has_vmlinuz: record.has_vmlinuz,
            has_modules: record.has_modules,
            key,
            directory,
        })
    }
}

fn not_found(name: &KernelName) -> ImagesError {
    ImagesError::NotFound {
        kind: "kernel",
        name: name.to_string(),
    }
}

/// Whether a digest begins as a user typed it: 4 or more hexadecimal digits, with or without `sha256:`.
pub(crate) fn has_prefix(digest: &Digest, typed: &str) -> bool {
    let hex = typed.strip_prefix("sha256:").unwrap_or(typed);
    hex.len() >= 4 && digest.hex().starts_with(hex)
}

/// Seconds since 1970.
pub(crate) fn now_unix() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
