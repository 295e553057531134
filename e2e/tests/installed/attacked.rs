//! Attacks that need an installation: the owner's other programs at the daemon, a helper that is
//! flooded or hangs, a disk that hangs. Beside them runs a VM that must not notice.

use crate::chaos::main_process;
use crate::{OWNER, as_owner, as_root, inspect, remains, run};
use e2e::eventually;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The VM beside.
const BESIDE: &str = "calm";

pub(crate) fn attacked() {
    as_owner(&["banger", "vm", "create", "--name", BESIDE, "--start"]);
    let process = inspect(BESIDE)["pid"].clone();
    the_daemon_shows_its_owner_nothing_of_itself();
    a_flood_of_the_helper();
    a_disk_that_hangs();
    a_helper_that_hangs();
    assert_eq!(inspect(BESIDE)["pid"], process);
    as_owner(&["banger", "vm", "rm", "--force", BESIDE]);
    eventually("the VMs have left nothing", || remains().is_empty());
}

/// All files that give who runs them more than he has.
pub(crate) fn elevating_files() -> String {
    let look = "find / -xdev -type f -perm /6000; getcap -r /usr /etc /var /opt /root /home";
    as_root(&["sh", "-c", look])
}

/// P13: a program of the owner's is the same user and may not look inside all the same.
fn the_daemon_shows_its_owner_nothing_of_itself() {
    let daemon = main_process("bangerd.service").to_string();
    for part in ["environ", "mem", "maps", "fd/0", "root/etc/passwd", "cwd/."] {
        let path = format!("/proc/{daemon}/{part}");
        let seen = run(OWNER, &["head", "-c", "1", &path]);
        assert_ne!(seen.code, 0, "{path}: {seen:#?}");
        // Else it would prove nothing.
        assert!(seen.stderr.contains("Permission denied"), "{seen:#?}");
    }
    let traced = run(OWNER, &["strace", "-o", "/dev/null", "-p", &daemon]);
    assert_ne!(traced.code, 0);
    assert!(traced.stderr.contains("not permitted"), "{traced:#?}");
}

/// X9: whoever may ask the helper asks without end.
fn a_flood_of_the_helper() {
    let helper = main_process("bangerd-root.service");
    let end = Instant::now() + Duration::from_secs(5);
    let flood = || {
        let mut asked = 0_u32;
        let mut answer = [0; 64];
        while Instant::now() < end {
            let Ok(mut stream) = UnixStream::connect("/run/banger-ipc/root.sock") else {
                continue;
            };
            let body = br#"{"verb":"priv.none"}"#;
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            // It may hang up before it has read.
            if stream.write_all(&[&length[..], body].concat()).is_ok()
                && stream.read(&mut answer).is_ok_and(|length| length > 0)
            {
                asked += 1;
            }
        }
        asked
    };
    let asked: u32 = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        let began = Instant::now();
        as_root(&["systemctl", "is-active", "bangerd-root.service"]);
        as_owner(&["banger", "exec", BESIDE, "--", "true"]);
        println!(
            "beside a flood, systemd and a guest answered within {:.1} s",
            began.elapsed().as_secs_f64()
        );
        floods.into_iter().map(|flood| flood.join().unwrap()).sum()
    });
    assert!(asked > 100, "{asked}");
    println!("{asked} requests in 5 s");
    as_owner(&["banger", "run", "--", "true"]);
    assert_eq!(main_process("bangerd-root.service"), helper);
}

/// C17: a VM's disk answers no more. The others go on; it goes when it can.
fn a_disk_that_hangs() {
    let create = ["banger", "vm", "create", "--storage", "snapshot", "--start"];
    as_owner(&[&create[..], &["--name", "stuck"]].concat());
    let vm = inspect("stuck");
    let digits = vm["id"].as_str().unwrap().trim_start_matches("vm-");
    let disk = format!("fc-rootfs-{digits}");
    as_root(&["dmsetup", "suspend", "--noflush", "--nolockfs", &disk]);
    let write = "echo more > /root/more; sync";
    let written = run(
        OWNER,
        &[
            "banger",
            "exec",
            "--timeout",
            "5s",
            "stuck",
            "--",
            "sh",
            "-c",
            write,
        ],
    );
    assert_ne!(written.code, 0, "{written:#?}");
    as_owner(&["banger", "exec", BESIDE, "--", "true"]);
    as_owner(&["banger", "run", "--", "true"]);
    let began = Instant::now();
    let removed = run(OWNER, &["banger", "vm", "rm", "--force", "stuck"]);
    println!(
        "a VM whose disk hangs was removed or not within {:.0} s: {} {}",
        began.elapsed().as_secs_f64(),
        removed.code,
        removed.stderr.trim()
    );
    as_owner(&["banger", "exec", BESIDE, "--", "true"]);
    // It may be gone with the VM.
    run("root", &["dmsetup", "resume", &disk]);
    if removed.code != 0 {
        let is_told =
            removed.stderr.contains("kill VM \"stuck\"") && removed.stderr.contains("hint");
        assert!(is_told, "{removed:#?}");
        as_owner(&["banger", "vm", "rm", "--force", "stuck"]);
    }
    eventually("nothing is left of it", || {
        !remains().iter().any(|line| line.contains(digits))
    });
}

/// P17: the helper hangs; what needs it is told so in the end, and it is started anew.
fn a_helper_that_hangs() {
    let helper = main_process("bangerd-root.service");
    as_root(&["kill", "-STOP", &helper.to_string()]);
    let began = Instant::now();
    as_owner(&["banger", "exec", BESIDE, "--", "true"]);
    let asked = run(OWNER, &["banger", "run", "--", "true"]);
    println!(
        "a run beside a helper that hangs ended after {:.0} s: {} {}",
        began.elapsed().as_secs_f64(),
        asked.code,
        asked.stderr.trim()
    );
    if asked.code != 0 {
        assert!(asked.stderr.contains("error:"), "{asked:#?}");
    }
    eventually("the helper is started anew", || {
        main_process("bangerd-root.service") != helper
    });
    as_owner(&["banger", "run", "--", "true"]);
}
