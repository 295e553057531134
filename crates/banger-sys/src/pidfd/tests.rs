//! Children that are, are not, and are no more who they are taken for.

use std::process::Command;
use std::time::Duration;

use super::*;

fn sleeper() -> (std::process::Child, Pid) {
    let child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
    let pid = Pid::from_child(&child);
    (child, pid)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn foreign(result: Result<Proven, ProcessError>) -> &'static str {
    match result {
        Err(ProcessError::Foreign { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_is_proved_signalled_waited_for_and_reaped() {
    let (_child, pid) = sleeper();
    let facts = Facts::of(pid).unwrap();
    let proven = Proven::open(pid.as_raw_nonzero().get(), &facts).unwrap();
    assert!(proven.is_alive().unwrap());
    let short = Instant::now() + Duration::from_millis(20);
    assert!(!proven.wait(short).unwrap());
    assert!(Instant::now() >= short);
    proven.signal(Signal::TERM).unwrap();
    assert!(proven.wait(soon()).unwrap());
    assert!(!proven.is_alive().unwrap());
    // A zombie is not proved again: it has ended.
    assert!(matches!(
        Proven::open(pid.as_raw_nonzero().get(), &facts),
        Err(ProcessError::Gone)
    ));
    assert_eq!(reap(&proven).unwrap(), Ended::Killed(libc::SIGTERM));
    assert!(matches!(
        proven.signal(Signal::KILL),
        Err(ProcessError::Gone)
    ));
    assert!(matches!(Facts::of(pid), Err(ProcessError::Gone)));
}

#[test]
fn a_process_that_differs_from_the_record_is_refused() {
    let (mut child, pid) = sleeper();
    let facts = Facts::of(pid).unwrap();
    let pid = pid.as_raw_nonzero().get();
    let later = Facts {
        started: facts.started + 1,
        ..facts.clone()
    };
    assert_eq!(foreign(Proven::open(pid, &later)), "start time");
    let group = facts.cgroup.clone().unwrap_or_default();
    for wrong in [
        None,
        Some(String::new()),
        Some("/".to_owned()),
        Some(format!("{group}/inner")),
        Some(format!("/user.slice{group}")),
        Some(format!("{group} (deleted)")),
    ] {
        if wrong == facts.cgroup {
            continue;
        }
        let other = Facts {
            cgroup: wrong,
            ..facts.clone()
        };
        assert_eq!(foreign(Proven::open(pid, &other)), "control group");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn pids_that_nobody_may_mean_are_refused() {
    let mine = Facts::of(rustix::process::getpid()).unwrap();
    for pid in [0, 1, -1, i32::MIN] {
        assert_eq!(foreign(Proven::open(pid, &mine)), "number");
    }
    assert!(matches!(
        Proven::open(i32::MAX, &mine),
        Err(ProcessError::Gone)
    ));
}

#[test]
#[expect(clippy::zombie_processes, reason = "the function under test waits")]
fn exit_codes_are_told_apart_from_signals() {
    let child = Command::new("/bin/sh")
        .args(["-c", "exit 7"])
        .spawn()
        .unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    assert!(wait_ended(&pidfd, None).unwrap());
    assert_eq!(reap(&pidfd).unwrap(), Ended::Exited(7));
    assert!(matches!(
        reap(&pidfd),
        Err(ProcessError::Kernel {
            errno: Errno::CHILD,
            ..
        })
    ));
}

#[test]
fn names_made_to_confuse_do_not() {
    let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
    for name in ["sh", "a) S 1 2", ") R (", "", "x\ny"] {
        assert_eq!(start_time(&format!("42 ({name}) {tail}")), Some(4711));
    }
    assert_eq!(start_time("42 sh S 1"), None);
    assert_eq!(start_time("42 (sh) S 1 2 3"), None);
    assert_eq!(
        unified_cgroup("9:name=systemd:/x\n0::/a/b.scope\n").as_deref(),
        Some("/a/b.scope")
    );
    assert_eq!(unified_cgroup("10::/x\n9:pids:0::/y\n"), None);
}
