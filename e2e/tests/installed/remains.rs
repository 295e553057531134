//! What VMs leave on a host: objects of the kernel, files, processes.

use crate::as_root;

/// Says all that there is of VMs, a line each.
const LOOK: &str = "
ip -o link | grep tap-
ip neigh show dev br-fc nud permanent 2>/dev/null | sed 's/^/neighbour /'
dmsetup ls | grep fc-rootfs-
losetup -a | grep banger
grep -h -e /var/lib/bangerd-root -e /var/lib/banger /proc/self/mounts
nft list table inet banger 2>/dev/null | tr , '\\n' | grep tap-
nft list table bridge banger 2>/dev/null | tr , '\\n' | grep tap-
systemctl list-units --plain --no-legend 'banger-vm-*'
find /sys/fs/cgroup -name 'banger-vm-*'
ls -d /run/bangerd-root/ledger/vm-* /var/lib/bangerd-root/jail/vm-* 2>/dev/null
ps -eo uid=,pid=,args= | grep '^ *19000[0-9]\\{5\\} '
true";

/// Says all files that VMs and half-made things have, a line each.
const FILES: &str = "
ls -d /run/banger/vm/* /var/lib/banger/state/vms/* /var/lib/banger/data/tmp/* \
    /var/cache/banger/tmp/* 2>/dev/null
true";

/// What there is of VMs that run: what an unkept or stopped one may not leave.
pub(crate) fn remains() -> Vec<String> {
    let text = as_root(&["sh", "-c", LOOK]);
    text.lines().map(str::to_owned).collect()
}

/// That, and files of VMs that are kept or not.
pub(crate) fn remains_with_files() -> Vec<String> {
    let text = as_root(&["sh", "-c", &format!("{LOOK}\n{FILES}")]);
    text.lines().map(str::to_owned).collect()
}
