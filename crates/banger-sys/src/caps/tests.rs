//! What a program sees that was executed after giving things up.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::fcntl_getfd;
use rustix::thread::CapabilitySet;

use super::*;
use crate::dirs::tests::is_root;

const KEPT: CapabilitySet = CapabilitySet::CHOWN.union(CapabilitySet::NET_ADMIN);

/// What `script` prints when executed by a child that did `before`.
fn seen(script: &str, before: fn() -> Result<(), Errno>) -> String {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    // SAFETY: `before` makes system calls only.
    unsafe { command.pre_exec(move || before().map_err(Into::into)) };
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn set_of(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

#[test]
fn a_program_gets_no_more_than_was_left() {
    if !is_root() {
        return;
    }
    let status = seen("cat /proc/self/status", || {
        drop_bounding(KEPT)?;
        forbid_new_privileges()?;
        restrict(KEPT, false)
    });
    assert_eq!(set_of(&status, "CapBnd"), KEPT.bits());
    // Root's uid gives what the bounding set leaves, and not more.
    assert_eq!(set_of(&status, "CapPrm"), KEPT.bits());
    assert_eq!(set_of(&status, "CapAmb"), 0);
    assert!(status.contains("NoNewPrivs:\t1"));
}

#[test]
fn a_program_of_a_plain_user_gets_what_is_handed_on_or_nothing() {
    if !is_root() {
        return;
    }
    fn as_user() -> Result<(), Errno> {
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(4242))
    }
    let handed_on = seen("cat /proc/self/status", || {
        as_user()?;
        restrict(KEPT, true)
    });
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(set_of(&handed_on, set), KEPT.bits(), "{set}");
    }
    let kept_back = seen("cat /proc/self/status", || {
        as_user()?;
        restrict(KEPT, true)?;
        restrict(KEPT, false)
    });
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(set_of(&kept_back, set), 0, "{set}");
    }
}

#[test]
fn drop_bounding_says_when_it_may_not() {
    if !is_root() {
        return;
    }
    // In a thread of its own, whose sets nobody else has.
    let dropped = std::thread::spawn(|| {
        restrict(CapabilitySet::CHOWN, false).unwrap();
        let before = capability_is_in_bounding_set(CapabilitySet::SYS_BOOT).unwrap();
        (before, drop_bounding(CapabilitySet::CHOWN))
    });
    let (had_more, dropped) = dropped.join().unwrap();
    assert_eq!(dropped, if had_more { Err(Errno::PERM) } else { Ok(()) });
    assert!(capabilities(None).unwrap().effective != CapabilitySet::CHOWN);
}

#[test]
fn a_hardened_process_has_no_core_files_and_private_ones() {
    let told = seen("umask; ulimit -c; ulimit -H -c; ulimit -n", || {
        harden_process()?;
        limit(Resource::Nofile, 64)
    });
    assert_eq!(told, "0077\n0\n0\n64\n");
}

#[test]
fn only_the_descriptors_named_outlive_the_exec() {
    let files: Vec<_> = (0..3)
        .map(|_| tempfile::tempfile().unwrap())
        .map(|file| rustix::io::dup(&file).unwrap())
        .collect();
    keep_across_exec(&[files[1].as_fd()]).unwrap();
    let closes = files
        .iter()
        .map(|fd| fcntl_getfd(fd).unwrap() == FdFlags::CLOEXEC);
    assert_eq!(closes.collect::<Vec<_>>(), [true, false, true]);
}
