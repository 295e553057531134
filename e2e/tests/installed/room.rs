//! The host's disk nearly full: the VM that fills it ends in time, what is beside it runs on.

use crate::{OWNER, as_owner, as_root, inspect, remains, run};
use e2e::eventually;

/// What takes the rest of the host's disk; on the file system of the state.
const REST: &str = "/var/lib/rest";

const MIB: u64 = 1 << 20;

/// What must stay free while VMs write.
const FLOOR: u64 = 512 * MIB;

/// One of two VMs writes more than there is room for.
pub(crate) fn kept() {
    for name in ["greedy", "modest"] {
        as_owner(&["banger", "vm", "create", "--name", name, "--start"]);
    }
    let rest = free() - FLOOR - 48 * MIB;
    as_root(&["fallocate", "--length", &rest.to_string(), REST]);
    in_guest("modest", "echo kept > /root/mark; sync");
    let fill = "dd if=/dev/zero of=/root/fill bs=1M count=1000; sync; sleep 60";
    let filled = run(OWNER, &["banger", "exec", "greedy", "--", "sh", "-c", fill]);
    for said in ["host_full", "banger system df"] {
        assert!(filled.stderr.contains(said), "{said}: {filled:#?}");
    }
    let vm = inspect("greedy");
    assert_eq!(vm["state"], "crashed", "{vm}");
    println!(
        "a VM that filled the disk ended with {} MiB free",
        free() / MIB
    );
    assert_eq!(in_guest("modest", "cat /root/mark"), "kept\n");
    let refused = run(OWNER, &["banger", "vm", "start", "greedy"]);
    assert!(refused.stderr.contains("must stay free"), "{refused:#?}");

    as_root(&["rm", REST]);
    as_owner(&["banger", "vm", "start", "greedy"]);
    assert_eq!(in_guest("greedy", "echo back"), "back\n");
    as_owner(&["banger", "vm", "rm", "--force", "greedy", "modest"]);
    eventually("the VMs have left nothing", || remains().is_empty());
}

fn in_guest(name: &str, script: &str) -> String {
    as_owner(&["banger", "exec", name, "--", "sh", "-c", script])
}

/// What is free to the owner, in bytes.
fn free() -> u64 {
    let told = as_root(&["df", "--output=avail", "--block-size=1", "/var/lib"]);
    told.lines().last().unwrap().trim().parse().unwrap()
}
