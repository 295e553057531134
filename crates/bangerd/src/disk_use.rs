//! What banger takes on the host's disks, and how much of that nothing needs now. Blocks that are
//! really taken are counted, holes are not, and no link is followed.

use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::vm::place::VmPlace;
use banger_api::{DiskUseView, VmState};
use banger_names::{ByteSize, Digest};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most entries of a directory tree that are looked at.
const MAX_ENTRIES: usize = 200_000;

/// What a kind of thing takes.
#[derive(Debug, Default)]
struct Sum {
    count: u64,
    bytes: u64,
    reclaimable: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64, is_needed: bool) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if !is_needed {
            self.reclaimable = self.reclaimable.saturating_add(bytes);
        }
    }

    fn view(self, kind: &str, hint: &str) -> DiskUseView {
        DiskUseView {
            kind: kind.to_owned(),
            count: self.count,
            size: ByteSize(self.bytes),
            reclaimable: ByteSize(self.reclaimable),
            hint: hint.to_owned(),
        }
    }
}

/// A VM, as far as its files are concerned.
struct VmFiles {
    state: PathBuf,
    is_over: bool,
}

/// What everything takes.
pub(crate) async fn look(daemon: &Arc<Daemon>) -> Result<Vec<DiskUseView>, Refusal> {
    let mut images_used = HashSet::new();
    let mut kernels_used = HashSet::new();
    let mut vms = Vec::new();
    for vm in daemon.vms().all() {
        let record = vm.now().record;
        images_used.insert(record.plan.image_digest.clone());
        kernels_used.insert(record.plan.kernel_digest.clone());
        vms.push(VmFiles {
            state: VmPlace::of(daemon.dirs(), &vm.id).state,
            is_over: matches!(record.state, VmState::Stopped | VmState::Crashed),
        });
    }
    let (images, kernels, default) = daemon
        .with_images(|images| {
            Ok((
                images.images()?,
                images.kernels()?,
                images.kernel_default()?,
            ))
        })
        .await?;
    let dirs = daemon.dirs().clone();
    let looking = tokio::task::spawn_blocking(move || {
        let mut image_sum = Sum::default();
        for image in &images {
            image_sum.add(image.disk_usage, images_used.contains(&image.digest));
        }
        // Names of one content share its files.
        let contents: BTreeMap<Digest, PathBuf> = kernels
            .iter()
            .map(|kernel| (kernel.digest.clone(), kernel.vmlinux()))
            .collect();
        let mut kernel_sum = Sum::default();
        let default = kernels
            .iter()
            .find(|kernel| Some(&kernel.name) == default.as_ref())
            .map(|kernel| &kernel.digest);
        for (digest, vmlinux) in &contents {
            let bytes = vmlinux.parent().map_or(0, |dir| tree(dir, &|_| true));
            let is_needed = kernels_used.contains(digest) || default == Some(digest);
            kernel_sum.add(bytes, is_needed);
        }
        let (mut vm_sum, mut log_sum) = (Sum::default(), Sum::default());
        for vm in &vms {
            vm_sum.add(tree(&vm.state, &|name| !is_log(name)), !vm.is_over);
            log_sum.add(tree(&vm.state, &is_log), !vm.is_over);
        }
        let own = dirs.daemon_log();
        if let Ok(meta) = std::fs::symlink_metadata(&own) {
            log_sum.add(meta.blocks().saturating_mul(512), true);
        }
        let mut cache_sum = Sum::default();
        for entry in std::fs::read_dir(&dirs.cache)
            .into_iter()
            .flatten()
            .flatten()
        {
            cache_sum.add(tree(&entry.path(), &|_| true), false);
        }
        vec![
            image_sum.view("images", "banger image rm"),
            kernel_sum.view("kernels", "banger kernel rm"),
            vm_sum.view("vms", "banger vm prune"),
            log_sum.view("logs", "banger vm prune"),
            cache_sum.view(
                "cache",
                &format!("remove what is in {}", dirs.cache.display()),
            ),
        ]
    });
    looking
        .await
        .map_err(|error| Refusal::internal("look at what takes disk space", &error))
}

fn is_log(name: &str) -> bool {
    name.contains(".log")
}

/// What the files below `path` take whose names are meant. What cannot be read counts nothing.
fn tree(path: &Path, is_meant: &dyn Fn(&str) -> bool) -> u64 {
    let mut bytes = 0_u64;
    let mut pending = vec![path.to_owned()];
    let mut seen = 0;
    while let Some(path) = pending.pop() {
        seen += 1;
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            let room = MAX_ENTRIES.saturating_sub(seen + pending.len());
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(entries.take(room).map(|entry| entry.path()));
        } else if path
            .file_name()
            .is_some_and(|name| is_meant(&name.to_string_lossy()))
        {
            bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_links_and_other_names_count_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let inner = temp.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("console.log.1"), vec![1; 8192]).unwrap();
        let disk = std::fs::File::create(inner.join("disk.img")).unwrap();
        disk.set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/usr", inner.join("usr")).unwrap();
        let logs = tree(temp.path(), &is_log);
        assert!((8192..65_536).contains(&logs), "{logs}");
        assert_eq!(tree(temp.path(), &|name| name == "disk.img"), 0);
        assert_eq!(tree(&temp.path().join("absent"), &|_| true), 0);
    }
}
