//! What of banger is to be seen on a host: nothing, after it was uninstalled.

use super::host::Host;
use super::layout::{PROGRAMS, VOLATILE};
use super::plan;
use super::units::Unit;
use std::fs;
use std::path::Path;

/// The mark of links, and that of device-mapper devices.
const LINK_MARK: &str = "banger:";
const DM_MARK: &str = "banger-";

/// The VMs' scopes that there are.
pub(crate) fn scopes(host: &Host) -> Vec<String> {
    names(host, "/sys/fs/cgroup/banger.slice")
        .into_iter()
        .filter(|name| name.starts_with("banger-vm-") && name.ends_with(".scope"))
        .collect()
}

/// The links that carry our mark, bridge and taps.
pub(crate) fn links(host: &Host) -> Vec<String> {
    names(host, "/sys/class/net")
        .into_iter()
        .filter(|name| {
            let alias = host.text(format!("/sys/class/net/{name}/ifalias"));
            alias.is_some_and(|alias| alias.starts_with(LINK_MARK))
        })
        .collect()
}

/// Everything that is left, each in words.
pub(crate) fn left(host: &Host) -> Vec<String> {
    let mut left = Vec::new();
    for path in plan::written()
        .iter()
        .map(|path| path.as_path())
        .chain(VOLATILE.map(Path::new))
    {
        if fs::symlink_metadata(host.at(path)).is_ok() {
            left.push(format!("file {}", path.display()));
        }
    }
    for unit in Unit::ALL {
        if super::service::is_active(host, unit) {
            left.push(format!("unit {}", unit.file()));
        }
    }
    if host.succeeds("getent", &["group", banger_priv::GROUP]) {
        left.push(format!("group {}", banger_priv::GROUP));
    }
    left.extend(kernel(host));
    left
}

/// What is left in the kernel.
pub(crate) fn kernel(host: &Host) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(scopes(host).iter().map(|name| format!("scope {name}")));
    left.extend(links(host).iter().map(|name| format!("link {name}")));
    for name in names(host, "/sys/block") {
        let of = |file: &str| host.text(format!("/sys/block/{name}/{file}"));
        if of("dm/uuid").is_some_and(|uuid| uuid.starts_with(DM_MARK)) {
            left.push(format!("device-mapper device {name}"));
        }
        if of("loop/backing_file").is_some_and(|file| file.starts_with("/var/lib/banger/")) {
            left.push(format!("loop device {name}"));
        }
    }
    let mounts = host.text("/proc/self/mounts").unwrap_or_default();
    for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if [VOLATILE[3], PROGRAMS]
            .iter()
            .any(|ours| Path::new(place).starts_with(ours))
        {
            left.push(format!("mount {place}"));
        }
    }
    // Without nft there cannot be a table of ours.
    let tables = host.run("nft", &["list", "tables"]).unwrap_or_default();
    left.extend(
        tables
            .lines()
            .filter(|line| line.split_whitespace().last() == Some("banger"))
            .map(|line| format!("nft {line}")),
    );
    left
}

fn names(host: &Host, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(host.at(directory)).into_iter().flatten();
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake;

    #[test]
    fn what_is_ours_is_seen_and_what_is_not_is_left_out() {
        let temp = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sys/class/net/br-fc/ifalias", "banger:bridge\n");
        put("sys/class/net/br-fc-x/ifalias", "\n");
        put("sys/class/net/docker0/ifalias", "my banger:\n");
        put("sys/block/dm-0/dm/uuid", "banger-vm-00000001-1\n");
        put("sys/block/dm-1/dm/uuid", "LVM-banger-\n");
        put(
            "sys/block/loop0/loop/backing_file",
            "/var/lib/banger/data/x\n",
        );
        put(
            "sys/block/loop1/loop/backing_file",
            "/var/lib/banger-evil/x\n",
        );
        put(
            "proc/self/mounts",
            "a /var/lib/bangerd-root/jail/x ext4 rw 0 0\nb /var/lib/bangerd-rooted ext4 rw 0 0\n",
        );
        put("sys/fs/cgroup/banger.slice/banger-vm-00000001.scope/x", "");
        put("sys/fs/cgroup/banger.slice/cgroup.procs", "");
        let (host, _) = fake::host(temp.path());
        assert_eq!(
            kernel(&host),
            [
                "scope banger-vm-00000001.scope",
                "link br-fc",
                "device-mapper device dm-0",
                "loop device loop0",
                "mount /var/lib/bangerd-root/jail/x",
            ]
        );
    }
}
