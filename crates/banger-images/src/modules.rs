//! A kernel's modules: which ones some modules need, in the order in which they must be inserted.

use crate::ImagesError;
use crate::codec;
use crate::elf;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The most files looked at below a modules directory.
const FILES_MAX: usize = 50_000;
/// How deep directories may nest there.
const DEPTH_MAX: usize = 16;
/// How long a chain of modules that need each other may be; real ones have fewer than ten links.
const CHAIN_MAX: usize = 64;
/// Bytes of all modules of one initramfs, which is held in memory here and in the guest.
const RESOLVED_MAX: usize = 256 << 20;
/// The longest list file (`modules.dep`, `modules.builtin`).
const LIST_MAX: u64 = 64 << 20;

/// The modules of one kernel, as in `/lib/modules/VERSION`.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    directory: PathBuf,
    /// Module names (with `_` for `-`) to paths below the directory.
    files: BTreeMap<String, String>,
    /// Names of what is built into the kernel.
    builtin: BTreeSet<String>,
    /// Paths to the paths they need, from `modules.dep` if there is one.
    dep: Option<BTreeMap<String, Vec<String>>>,
    module_max: u64,
}

/// A module to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, as `virtio_blk`.
    pub name: String,
    /// Its content, decompressed.
    pub content: Vec<u8>,
}

/// How far an order of modules is.
#[derive(Default)]
struct Resolution {
    order: Vec<Module>,
    /// False while a module's needs are being resolved, true when it is in the order.
    seen: BTreeMap<String, bool>,
    /// How many are being resolved.
    depth: usize,
    bytes: usize,
}

impl ModuleTree {
    /// Reads what there is below `directory`. Modules may have `module_max` bytes.
    pub(crate) fn open(directory: &Path, module_max: u64) -> Result<Self, ImagesError> {
        let mut files = BTreeMap::new();
        for path in regular_files(directory)? {
            if let Some(name) = module_name(&path) {
                files.insert(name, path);
            }
        }
        let builtin = read_list(&directory.join("modules.builtin"))?
            .unwrap_or_default()
            .lines()
            .filter_map(module_name)
            .collect();
        let dep = read_list(&directory.join("modules.dep"))?.map(|text| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(path, needs)| {
                    let needs = needs.split_whitespace().map(str::to_owned).collect();
                    (path.to_owned(), needs)
                })
                .collect()
        });
        Ok(Self {
            directory: directory.to_owned(),
            files,
            builtin,
            dep,
            module_max,
        })
    }

    /// The modules to insert so that all of `wanted` are there, each after what it needs. What is
    /// built in is left out; a module that the kernel does not have is an error that names it.
    pub(crate) fn resolve(&self, wanted: &[&str]) -> Result<Vec<Module>, ImagesError> {
        let mut found = Resolution::default();
        for name in wanted {
            self.visit(&name.replace('-', "_"), None, &mut found)?;
        }
        Ok(found.order)
    }

    fn visit(
        &self,
        name: &str,
        needed_by: Option<&str>,
        found: &mut Resolution,
    ) -> Result<(), ImagesError> {
        match found.seen.get(name) {
            Some(true) => return Ok(()),
            Some(false) => return Err(refuse(name, "it needs itself")),
            None => {}
        }
        if found.depth >= CHAIN_MAX {
            return Err(refuse(name, "modules need each other too deep"));
        }
        let Some(path) = self.files.get(name) else {
            if self.builtin.contains(name) {
                return Ok(());
            }
            let by = needed_by.map(|by| format!(" (needed by {by:?})"));
            let by = by.unwrap_or_default();
            return Err(refuse(
                name,
                &format!("the kernel has no such module{by}, nor is it built in"),
            ));
        };
        found.seen.insert(name.to_owned(), false);
        let content = self.load(path)?;
        found.bytes = found.bytes.saturating_add(content.len());
        if found.bytes > RESOLVED_MAX {
            let reason = format!("it and those before it have more than {RESOLVED_MAX} bytes");
            return Err(refuse(name, &reason));
        }
        found.depth += 1;
        for need in self.needs(path, &content) {
            self.visit(&need, Some(name), found)?;
        }
        found.depth -= 1;
        found.seen.insert(name.to_owned(), true);
        found.order.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }

    /// The names that a module needs: from `modules.dep`, else from the module itself (a package
    /// that was not installed has no `modules.dep`).
    fn needs(&self, path: &str, content: &[u8]) -> Vec<String> {
        if let Some(paths) = self.dep.as_ref().and_then(|dep| dep.get(path)) {
            // depmod lists the nearest needs first and theirs after them.
            return paths.iter().rev().filter_map(|p| module_name(p)).collect();
        }
        let info = elf::section(content, b".modinfo").unwrap_or_default();
        info.split(|byte| *byte == 0)
            .filter_map(|record| record.strip_prefix(b"depends="))
            .flat_map(|names| names.split(|byte| *byte == b','))
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
            .collect()
    }

    fn load(&self, path: &str) -> Result<Vec<u8>, ImagesError> {
        let file = self.directory.join(path);
        let size = fs::metadata(&file)
            .map_err(ImagesError::io("read", &file))?
            .len();
        if size > self.module_max {
            return Err(refuse(path, &format!("it has {size} bytes")));
        }
        let bytes = fs::read(&file).map_err(ImagesError::io("read", &file))?;
        codec::decompress(&bytes, self.module_max).map_err(ImagesError::io("unpack", &file))
    }
}

fn refuse(module: &str, reason: &str) -> ImagesError {
    ImagesError::refused(format!("kernel module {module}"), reason)
}

/// The name of the module in a file, if the path is a module's: `a/virtio-blk.ko.xz` is `virtio_blk`.
pub(crate) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .find_map(|end| file.strip_suffix(end))?;
    let is_name = !stem.is_empty()
        && stem
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    is_name.then(|| stem.replace('-', "_"))
}

/// The paths of all regular files below a directory, sorted. Links are not followed.
pub(crate) fn regular_files(directory: &Path) -> Result<Vec<String>, ImagesError> {
    let mut found = Vec::new();
    let mut pending = vec![(String::new(), 0)];
    while let Some((prefix, depth)) = pending.pop() {
        let here = directory.join(&prefix);
        for entry in fs::read_dir(&here).map_err(ImagesError::io("list", &here))? {
            let entry = entry.map_err(ImagesError::io("list", &here))?;
            let kind = entry.file_type().map_err(ImagesError::io("list", &here))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            if kind.is_dir() && depth < DEPTH_MAX {
                pending.push((path, depth + 1));
            } else if kind.is_file() {
                found.push(path);
            }
            if found.len() + pending.len() > FILES_MAX {
                return Err(ImagesError::refused(
                    directory.display().to_string(),
                    format!("it holds more than {FILES_MAX} files"),
                ));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read_list(path: &Path) -> Result<Option<String>, ImagesError> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() <= LIST_MAX => fs::read_to_string(path)
            .map(Some)
            .map_err(ImagesError::io("read", path)),
        Ok(meta) => Err(ImagesError::refused(
            path.display().to_string(),
            format!("it has {} bytes", meta.len()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImagesError::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> (tempfile::TempDir, ModuleTree) {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let tree = ModuleTree::open(dir.path(), 1 << 20).unwrap();
        (dir, tree)
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    /// A relocatable ELF file with only a `.modinfo` section.
    fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file.extend(modinfo);
        let names_at = file.len();
        file.extend(names);
        let table = file.len();
        file[40..48].copy_from_slice(&u64::try_from(table).unwrap().to_le_bytes());
        (file[58], file[60], file[62]) = (64, 2, 1);
        for (name, at, size) in [(1_u32, 64, modinfo.len()), (10, names_at, names.len())] {
            let mut header = [0_u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&u64::try_from(at).unwrap().to_le_bytes());
            header[32..40].copy_from_slice(&u64::try_from(size).unwrap().to_le_bytes());
            file.extend(header);
        }
        file
    }

    #[test]
    fn order_follows_modules_dep_and_skips_what_is_built_in() {
        let (_dir, tree) = tree(&[
            ("kernel/virtio_blk.ko", b"blk"),
            ("kernel/virtio.ko", b"virtio"),
            ("kernel/virtio_ring.ko", b"ring"),
            ("kernel/overlay.ko", b"overlay"),
            (
                "modules.dep",
                b"kernel/virtio_blk.ko: kernel/virtio.ko kernel/virtio_ring.ko\n\
                  kernel/virtio.ko: kernel/virtio_ring.ko\nkernel/virtio_ring.ko:\nkernel/overlay.ko:\n",
            ),
            ("modules.builtin", b"kernel/fs/ext4/ext4.ko\n"),
        ]);
        let order = tree
            .resolve(&["overlay", "ext4", "virtio-blk", "virtio"])
            .unwrap();
        assert_eq!(
            names(&order),
            ["overlay", "virtio_ring", "virtio", "virtio_blk"]
        );
        assert_eq!(order[3].content, b"blk");
    }

    #[test]
    fn order_follows_modinfo_where_there_is_no_modules_dep() {
        let (_dir, tree) = tree(&[
            (
                "a/net-failover.ko",
                &module(b"license=GPL\0depends=failover\0name=x\0"),
            ),
            ("a/failover.ko", &module(b"depends=\0")),
            (
                "b/virtio_net.ko",
                &module(b"depends=virtio-ring,net_failover\0"),
            ),
            ("modules.builtin", b"kernel/virtio_ring.ko\n"),
        ]);
        let order = tree.resolve(&["virtio_net"]).unwrap();
        assert_eq!(names(&order), ["failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn missing_module_is_named_with_who_needs_it() {
        let (_dir, tree) = tree(&[("a.ko", &module(b"depends=b\0"))]);
        let error = tree.resolve(&["a"]).unwrap_err().to_string();
        assert!(
            error.contains("module b") && error.contains("\"a\""),
            "{error}"
        );
    }

    #[test]
    fn module_cycles_end() {
        let (_dir, tree) = tree(&[
            ("a.ko", &module(b"depends=b\0")),
            ("b.ko", &module(b"depends=a\0")),
        ]);
        let error = tree.resolve(&["a"]).unwrap_err().to_string();
        assert!(error.contains("needs itself"), "{error}");
    }

    #[test]
    fn endless_chains_of_modules_are_refused() {
        // Long enough to overflow a thread's stack if it were followed.
        let files: Vec<(String, Vec<u8>)> = (0..20_000)
            .map(|i| {
                (
                    format!("m{i}.ko"),
                    module(format!("depends=m{}\0", i + 1).as_bytes()),
                )
            })
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(p, c)| (&p[..], &c[..])).collect();
        let (_dir, tree) = tree(&files);
        let error = tree.resolve(&["m0"]).unwrap_err().to_string();
        assert!(error.contains("too deep"), "{error}");
    }

    #[test]
    fn compressed_modules_are_unpacked_and_damaged_ones_refused() {
        let zst = ruzstd::encoding::compress_to_vec(
            &b"content"[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let (_dir, tree) = tree(&[("a.ko.zst", &zst), ("b.ko.xz", b"\xfd7zXZ\0no")]);
        assert_eq!(tree.resolve(&["a"]).unwrap()[0].content, b"content");
        assert!(tree.resolve(&["b"]).is_err());
    }
}
