//! A VM with a snapshot of its image: kept over a stop and over a VMM that was killed, checked
//! before the next start, told when it is full, and gone with the VM.

use crate::{OWNER, as_owner, as_root, inspect, remains, run};
use e2e::eventually;
use serde_json::Value;

/// Fills a disk of 64 MiB: what is free first, then by changing what the image has, but not what
/// this needs to run.
const FILL: &str = "
dd if=/dev/zero of=/root/free bs=1M count=20 2>/dev/null; sync
find /usr -type f -size +300k ! -path '/usr/bin/*' ! -name 'libc.*' ! -name 'libm.*' \
    ! -name 'libpcre*' ! -name 'ld-*' > /root/list
while read -r file; do
    dd if=/dev/zero of=$file bs=64k conv=notrunc count=$(($(stat -c %s $file) / 65536)) 2>/dev/null
done < /root/list
sync; sleep 60";

/// What was written is there after a stop, and what was synced after the VMM was killed.
pub(crate) fn a_root_of_its_own() {
    let create = ["banger", "vm", "create", "--storage", "snapshot"];
    as_owner(&[&create[..], &["--name", "whole", "--start"]].concat());
    let vm = inspect("whole");
    assert_eq!(vm["storage"], "snapshot", "{vm}");
    assert_eq!(vm["root_size"], vm["disk"], "{vm}");
    let digits = vm["id"].as_str().unwrap().trim_start_matches("vm-");
    let table = as_root(&["dmsetup", "table", &format!("fc-rootfs-{digits}")]);
    assert!(table.contains(" snapshot "), "{table}");
    assert!(table.trim_end().ends_with(" P 8"), "{table}");
    let root = in_guest("df --output=source,size / | tail -1");
    assert!(root.starts_with("/dev/vda"), "{root}");
    in_guest("echo kept > /root/mark");
    as_owner(&["banger", "vm", "stop", "whole"]);
    assert_eq!(remains(), Vec::<String>::new());
    as_owner(&["banger", "vm", "start", "whole"]);
    assert_eq!(in_guest("cat /root/mark"), "kept\n");
    assert_eq!(checks(&vm), 0, "it was stopped in order");

    in_guest("echo synced >> /root/mark; sync; echo lost > /root/lost");
    let pid = inspect("whole")["pid"].to_string();
    as_root(&["kill", "-KILL", &pid]);
    eventually("its end is known", || {
        inspect("whole")["state"] == "crashed"
    });
    assert_eq!(inspect("whole")["exit"]["reason"], "killed");
    eventually("nothing is left of its start", || remains().is_empty());
    as_owner(&["banger", "vm", "start", "whole"]);
    assert_eq!(checks(&vm), 1, "it was killed");
    assert_eq!(in_guest("cat /root/mark"), "kept\nsynced\n");
    as_owner(&["banger", "vm", "rm", "--force", "whole"]);
    eventually("the VM has left nothing", || remains().is_empty());
}

/// A disk that is larger than its image is refused; one that is full ends its VM with that reason.
pub(crate) fn bounded() {
    let create = ["banger", "vm", "create", "--storage", "snapshot"];
    let name = ["--name", "whole", "--start", "--disk"];
    let large = run(OWNER, &[&create[..], &name, &["100G"]].concat());
    assert_eq!(large.code, 2, "{large:#?}");
    assert!(large.stderr.contains("its image's"), "{large:#?}");
    as_owner(&[&create[..], &name, &["64M"]].concat());
    let filled = run(OWNER, &["banger", "exec", "whole", "--", "sh", "-c", FILL]);
    assert!(filled.stderr.contains("disk_full"), "{filled:#?}");
    let vm = inspect("whole");
    assert_eq!(vm["exit"]["reason"], "disk_full", "{vm}");
    let again = run(OWNER, &["banger", "vm", "start", "whole"]);
    assert_ne!(again.code, 0, "{again:#?}");
    assert!(again.stderr.contains("its disk was full"), "{again:#?}");
    as_owner(&["banger", "vm", "rm", "whole"]);
    eventually("the VM has left nothing", || remains().is_empty());
}

fn in_guest(script: &str) -> String {
    as_owner(&["banger", "exec", "whole", "--", "sh", "-c", script])
}

/// How often the VM's disk was checked, by the daemon's journal.
fn checks(vm: &Value) -> usize {
    let id = vm["id"].as_str().unwrap();
    let journal = as_root(&["journalctl", "--no-pager", "--unit", "bangerd.service"]);
    let lines = journal.lines().filter(|line| line.contains(id));
    lines
        .filter(|line| line.contains("checked the disk"))
        .count()
}
