//! The initramfs: the agent as `/init` and the modules that the engine needs, made once for each
//! kernel, agent and set of modules; and, for each boot, that archive with the boot's own
//! configuration behind it.

use crate::cpio::CpioWriter;
use crate::elf;
use crate::files::{private_file, read_capped};
use crate::modules::{Module, ModuleTree};
use crate::progress::{NoProgress, Step};
use crate::sparse::{self, CopyError};
use crate::{ImagesError, Kernel, Store};
use banger_guest::boot::{BOOT_CONFIG_PATH, MODULES_LIST_PATH};
use banger_names::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Changes whenever the archive's layout does, so that an old one is not taken from the cache.
const LAYOUT: &[u8] = b"banger initramfs 2";
/// The largest agent.
const AGENT_MAX: u64 = 64 << 20;
/// The largest boot configuration.
const BOOT_MAX: usize = 1 << 20;
/// Where modules lie in the archive.
const MODULES: &str = "modules";

impl Store {
    /// These modules of the kernel and all that they need, in the order in which to insert them. What
    /// the kernel neither has nor has built in is an error that names it.
    pub fn modules(&self, kernel: &Kernel, wanted: &[&str]) -> Result<Vec<Module>, ImagesError> {
        match kernel.module_lists() {
            Some(directory) => {
                ModuleTree::open(&directory, self.limits().module_bytes)?.resolve(wanted)
            }
            // A kernel of the user's of which nothing is known: it has everything built in, or its
            // boot says what it lacks.
            None => Ok(Vec::new()),
        }
    }

    /// The initramfs with this agent (a static executable) and these modules of the kernel, with all
    /// that they need. It is made on first use and kept in the cache.
    pub fn initramfs(
        &self,
        agent: &Path,
        kernel: &Kernel,
        modules: &[&str],
    ) -> Result<PathBuf, ImagesError> {
        let digest = self.agent_digest().of(agent, AGENT_MAX)?;
        let in_cache = |agent: &Digest| {
            let key = cache_key(agent, kernel, modules);
            self.cache().join(format!("initramfs-{}.cpio", key.hex()))
        };
        let target = in_cache(&digest);
        if target.is_file() {
            return Ok(target);
        }
        let agent_bytes = read_capped(agent, AGENT_MAX)?;
        // What is put in is what the name says, also if the agent was replaced just now.
        let target = in_cache(&Digest::from_sha256(Sha256::digest(&agent_bytes).into()));
        if !agent_bytes.starts_with(b"\x7fELF") {
            return Err(ImagesError::refused(
                agent.display().to_string(),
                "the agent is not an ELF executable",
            ));
        }
        // The guest's kernel would find no loader for it, and panic.
        if elf::section(&agent_bytes, b".interp").is_some() {
            return Err(ImagesError::refused(
                agent.display().to_string(),
                "the agent is not statically linked (a debug build?)",
            ));
        }
        let resolved = self.modules(kernel, modules)?;
        let scratch = self.cache_scratch()?;
        let path = scratch.join("initramfs");
        let file = private_file(&path)?;
        write_archive(BufWriter::new(&file), &agent_bytes, &resolved)
            .map_err(ImagesError::io("write", &path))?;
        // Else a power cut could leave an empty file of that name, and every later boot with it.
        file.sync_all().map_err(ImagesError::io("flush", &path))?;
        fs::rename(&path, &target).map_err(ImagesError::io("create", &target))?;
        Ok(target)
    }
}

fn cache_key(agent: &Digest, kernel: &Kernel, modules: &[&str]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    hash.update(agent.as_str());
    hash.update(kernel.key().as_str());
    for module in modules {
        hash.update(module.as_bytes());
        hash.update([0]);
    }
    Digest::from_sha256(hash.finalize().into())
}

fn write_archive(output: impl Write, agent: &[u8], modules: &[Module]) -> io::Result<()> {
    let mut cpio = CpioWriter::new(output);
    for (directory, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("run", 0o755),
        ("newroot", 0o755),
        ("banger", 0o700),
        (MODULES, 0o755),
    ] {
        cpio.directory(directory, mode)?;
    }
    // The kernel opens it for the first process before anything is mounted.
    cpio.device("dev/console", 0o600, (5, 1))?;
    let mut order = String::new();
    for module in modules {
        let file = format!("{}.ko", module.name);
        cpio.file(&format!("{MODULES}/{file}"), 0o644, &module.content)?;
        order.push_str(&file);
        order.push('\n');
    }
    cpio.file(
        MODULES_LIST_PATH.trim_start_matches('/'),
        0o644,
        order.as_bytes(),
    )?;
    cpio.file("init", 0o755, agent)?;
    cpio.finish()?.flush()
}

/// Makes `out` (0600, must not exist): the initramfs at `base` and behind it a second archive with the
/// boot configuration, which the kernel unpacks over the first.
pub fn boot_initramfs(base: &Path, boot_json: &[u8], out: &Path) -> Result<(), ImagesError> {
    if boot_json.len() > BOOT_MAX {
        return Err(ImagesError::refused(
            "boot configuration",
            format!("it has {} bytes", boot_json.len()),
        ));
    }
    let from = File::open(base).map_err(ImagesError::io("open", base))?;
    let length = from
        .metadata()
        .map_err(ImagesError::io("read", base))?
        .len();
    let to = private_file(out)?;
    let result = append(&from, length, boot_json, &to);
    if result.is_err() {
        // The error that matters is already in hand.
        fs::remove_file(out).unwrap_or_default();
    }
    result.map_err(|error| error.at(out))
}

fn append(from: &File, length: u64, boot_json: &[u8], mut to: &File) -> Result<(), CopyError> {
    let mut step = Step::begin(&NoProgress, "make initramfs", "", None);
    sparse::copy(from, to, length, &mut step)?;
    to.seek(SeekFrom::Start(length.next_multiple_of(4)))?;
    let mut cpio = CpioWriter::new(Vec::new());
    cpio.file(BOOT_CONFIG_PATH.trim_start_matches('/'), 0o600, boot_json)?;
    to.write_all(&cpio.finish()?)?;
    Ok(())
}

#[cfg(test)]
mod tests;
