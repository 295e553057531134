//! A real group, where version 2 is mounted; what is refused, everywhere.

use std::process::Command;
use std::time::Duration;

use super::*;
use crate::dirs::tests::{cannot_run, is_root};
use crate::pidfd::{Facts, Proven};

const MOUNT: &str = "/sys/fs/cgroup";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn open_refuses_what_is_no_group() {
    for mount in ["/tmp", "/proc"] {
        assert!(matches!(
            Cgroup::open(mount, "/"),
            Err(CgroupError::NotUnified(_))
        ));
    }
}

#[test]
fn lab_cgroup_limits_holds_and_kills() {
    if !is_root() {
        return;
    }
    let root = match Cgroup::open(MOUNT, "/") {
        Ok(root) => root,
        Err(error) => return cannot_run(&error.to_string()),
    };
    let name = format!("test-{}", std::process::id());
    let group = root.create(&name).unwrap();
    assert!(root.create(&name).is_err(), "never adopted");
    assert!(!group.is_populated().unwrap());
    group.set("pids.max", "50").unwrap();
    group.set("memory.max", "67108864").unwrap();
    for file in ["", "..", "../cgroup.procs", "no.such"] {
        assert!(group.set(file, "1").is_err(), "{file:?}");
    }
    assert!(matches!(
        group.set("pids.max", "many"),
        Err(CgroupError::Kernel {
            errno: Errno::INVAL,
            ..
        })
    ));
    let mut child = Command::new("/bin/sh")
        .args(["-c", "sleep 600 & sleep 600 & wait"])
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    group.add(pid).unwrap();
    assert!(group.is_populated().unwrap());
    let facts = Facts::of(pid).unwrap();
    assert_eq!(facts.cgroup, Some(format!("/{name}")));
    let proven = Proven::open(pid.as_raw_nonzero().get(), &facts).unwrap();
    let short = Instant::now() + Duration::from_millis(50);
    assert!(!group.wait_empty(short).unwrap());
    assert!(root.remove(&name).is_err(), "in use");
    assert!(Cgroup::open(MOUNT, &format!("/{name}")).is_ok());
    for path in ["", "x", "/../..", "/./x"] {
        assert!(Cgroup::open(MOUNT, path).is_err(), "{path:?}");
    }
    let started = Instant::now();
    group.kill().unwrap();
    assert!(group.wait_empty(soon()).unwrap());
    println!("kill to empty: {:?}", started.elapsed());
    assert!(proven.wait(soon()).unwrap());
    child.wait().unwrap();
    root.remove(&name).unwrap();
    assert!(Cgroup::open(MOUNT, &format!("/{name}")).is_err());
    assert!(
        group.wait_empty(soon()).is_err(),
        "a removed group has no files"
    );
}
