//! Real Firecracker processes, named by `BANGER_TEST_FIRECRACKER`. They need a `/dev/kvm` that
//! opens: `cargo xtask smoke firecracker::` runs them on a host that has one.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::firecracker::Firecracker;
use crate::program::{Found, Version};
use crate::{
    Cache, Drive, Engine, EngineError, ExitReason, MachineSpec, NetworkMode, Place, VmmExit,
};

const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work)
        .await
        .expect("ends within 30 s")
}

fn program() -> PathBuf {
    let path = std::env::var_os("BANGER_TEST_FIRECRACKER").map(PathBuf::from);
    path.expect("BANGER_TEST_FIRECRACKER names a firecracker")
}

fn engine() -> Firecracker {
    Firecracker::new(Found {
        path: program(),
        version: Version::new(1, 12, 1),
    })
}

fn exited(error: EngineError) -> VmmExit {
    let EngineError::Exited(exit) = error else {
        panic!("{error}")
    };
    assert_eq!(exit.reason, ExitReason::Crashed);
    exit
}

/// Directories that go with the test.
struct TestPlace {
    dir: tempfile::TempDir,
    place: Place,
}

impl TestPlace {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [run_dir, log_dir] = ["run", "log"].map(|name| dir.path().join(name));
        for dir in [&run_dir, &log_dir] {
            std::fs::create_dir(dir).unwrap();
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        let place = Place {
            run_dir,
            log_dir,
            log_cap: 64 * 1024,
            jail: None,
        };
        Self { dir, place }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn spec(&self) -> MachineSpec {
        MachineSpec {
            cpus: 1,
            mem_mib: 128,
            huge_pages: false,
            jail_root: None,
            kernel: self.file("idle.elf", &idle_kernel()),
            initrd: self.file("empty.cpio", &[0; 512]),
            cmdline_extra: String::new(),
            drives: Vec::new(),
            network: NetworkMode::None,
            tap: None,
        }
    }

    fn drive(&self, name: &str, read_only: bool) -> Drive {
        Drive {
            path: self.dir.path().join(name),
            read_only,
            cache: Cache::Unsafe,
        }
    }

    fn in_run_dir(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.place.run_dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The processes that work in this place.
    fn processes(&self) -> Vec<i32> {
        let works_here = |dir: &Path| {
            std::fs::read_link(dir.join("cwd")).is_ok_and(|cwd| cwd == self.place.run_dir)
        };
        let entries = std::fs::read_dir("/proc").unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|dir| works_here(dir))
            .map(|dir| dir.file_name().unwrap().to_str().unwrap().parse().unwrap())
            .collect()
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.place.log_dir.join("console.log")).unwrap()
    }
}

impl Drop for TestPlace {
    /// A failed test drops its machines without ending them.
    fn drop(&mut self) {
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// `cli; hlt`, and back.
fn idle_kernel() -> Vec<u8> {
    kernel(&[0xfa, 0xf4, 0xeb, 0xfc])
}

/// Counts `turns` down, then asks the keyboard controller for a reset.
fn resetting_kernel(turns: u32) -> Vec<u8> {
    let mut code = vec![0xfa, 0xb9];
    code.extend(turns.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc, 0xb0, 0xfe, 0xe6, 0x64, 0xf4]);
    kernel(&code)
}

/// An ELF file of one loadable segment with this code.
fn kernel(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x10_0000;
    const CODE: u64 = 0x80;
    let end = CODE + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + CODE, 64, 0] {
        elf.extend(u64::to_le_bytes(word));
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [0, BASE, BASE, end, end, 4] {
        elf.extend(u64::to_le_bytes(word));
    }
    elf.resize(0x80, 0);
    elf.extend(code);
    elf
}

#[tokio::test]
#[ignore = "needs a firecracker (BANGER_TEST_FIRECRACKER) and a /dev/kvm that opens"]
async fn start_pause_resume_kill_leave_only_what_is_private() {
    let place = TestPlace::new();
    std::fs::write(place.dir.path().join("disk"), [0; 4096]).unwrap();
    let mut spec = place.spec();
    spec.drives = vec![place.drive("disk", false)];
    let machine = soon(engine().start(&spec, &place.place)).await.unwrap();
    assert_eq!(
        place.in_run_dir(),
        [
            "api.sock",
            "console.fifo",
            "machine.json",
            "vmm.fifo",
            "vsock.sock",
            "vsock.sock_5001"
        ]
    );
    let process = PathBuf::from(format!("/proc/{}", machine.process().pid));
    assert!(
        std::fs::read(process.join("environ")).unwrap().is_empty(),
        "no environment"
    );
    let fd = |number: u32| std::fs::read_link(process.join(format!("fd/{number}"))).unwrap();
    assert_eq!(fd(0), Path::new("/dev/null"));
    assert_eq!(fd(1), place.place.run_dir.join("console.fifo"));
    assert_eq!(fd(2), place.place.run_dir.join("vmm.fifo"));
    assert_eq!(fd(3), place.dir.path().join("disk"));

    soon(machine.pause()).await.unwrap();
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "its filters are on");
    soon(machine.resume()).await.unwrap();
    soon(machine.ctrl_alt_del()).await.unwrap();
    soon(machine.kill()).await.unwrap();
    let exit = soon(machine.wait()).await;
    assert_eq!((exit.reason, exit.signal), (ExitReason::Killed, Some(9)));
    assert!(!process.exists(), "it is reaped");
    soon(machine.kill())
        .await
        .expect("killing twice is no error");
    let error = soon(machine.agent_ready()).await.unwrap_err();
    assert!(matches!(error, EngineError::Exited(_)), "{error}");
    assert!(soon(machine.pause()).await.is_err());
    soon(engine().start(&spec, &place.place))
        .await
        .expect("what an earlier machine left is no hindrance")
        .kill()
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs a firecracker (BANGER_TEST_FIRECRACKER) and a /dev/kvm that opens"]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let place = TestPlace::new();
    let mut spec = place.spec();
    spec.kernel = place.file("junk", b"no kernel");
    let machine = soon(engine().start(&spec, &place.place)).await.unwrap();
    let exit = exited(soon(machine.agent_ready()).await.unwrap_err());
    assert!(exit.detail.contains("kernel image"), "{}", exit.detail);

    // One that ends before its sockets are there.
    let other = TestPlace::new();
    let broken = Firecracker::new(Found {
        path: "/bin/false".into(),
        version: Version::new(1, 12, 1),
    });
    let error = soon(broken.start(&other.spec(), &other.place)).await;
    let exit = exited(error.unwrap_err());
    assert_eq!((exit.reason, exit.code), (ExitReason::Crashed, Some(1)));
    assert_eq!(other.in_run_dir(), [""; 0]);

    spec = place.spec();
    spec.network = NetworkMode::User;
    let error = soon(engine().start(&spec, &place.place)).await.unwrap_err();
    assert!(
        error.to_string().contains("no user-mode network"),
        "{error}"
    );
}

#[tokio::test]
#[ignore = "needs a firecracker (BANGER_TEST_FIRECRACKER) and a /dev/kvm that opens"]
async fn a_start_given_up_half_way_leaves_nothing() {
    let engine = engine();
    for wait in [0, 1, 3, 6, 10, 20] {
        let place = TestPlace::new();
        let spec = place.spec();
        let start = engine.start(&spec, &place.place);
        match tokio::time::timeout(Duration::from_millis(wait), start).await {
            Err(_) => assert_eq!(place.in_run_dir(), [""; 0]),
            Ok(machine) => machine.unwrap().kill().await.unwrap(),
        }
        assert!(place.processes().is_empty(), "one of this test runs on");
    }
}

#[tokio::test]
#[ignore = "needs a firecracker (BANGER_TEST_FIRECRACKER) and a /dev/kvm that opens"]
async fn drives_are_shared_read_only_and_exclusive_writable() {
    let (place, other) = (TestPlace::new(), TestPlace::new());
    place.file("base", &[0; 4096]);
    let engine = engine();
    let with = |read_only| MachineSpec {
        drives: vec![place.drive("base", read_only)],
        ..place.spec()
    };
    let first = soon(engine.start(&with(true), &place.place)).await.unwrap();
    let second = soon(engine.start(&with(true), &other.place)).await.unwrap();
    second.kill().await.unwrap();
    let error = soon(engine.start(&with(false), &other.place)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, EngineError::File { .. }), "{error}");
    first.kill().await.unwrap();
    let third = soon(engine.start(&with(false), &other.place))
        .await
        .unwrap();
    third.kill().await.unwrap();
}

#[tokio::test]
#[ignore = "needs a firecracker (BANGER_TEST_FIRECRACKER) and a /dev/kvm that opens"]
async fn a_dropped_machine_runs_on_and_what_it_said_meanwhile_is_read() {
    let place = TestPlace::new();
    let machine = soon(engine().start(&place.spec(), &place.place)).await;
    let machine = machine.unwrap();
    let process = machine.process().clone();
    drop(machine);
    // As the guest would: through Firecracker's own descriptor, until no more is held.
    let stdout = format!("/proc/{}/fdinfo/1", process.pid);
    let info = std::fs::read_to_string(stdout).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
    assert_ne!(flags & 0o4000, 0, "its end does not block");
    let mut console = std::fs::OpenOptions::new()
        .write(true)
        .open(place.place.run_dir.join("console.fifo"))
        .unwrap();
    console.write_all(b"said while nobody read\n").unwrap();
    drop(console);

    let adopted = soon(engine().adopt(&process, &place.place)).await.unwrap();
    soon(adopted.pause()).await.unwrap();
    soon(adopted.resume()).await.unwrap();
    soon(adopted.kill()).await.unwrap();
    assert_eq!(soon(adopted.wait()).await.reason, ExitReason::Killed);
    assert_eq!(place.console(), "said while nobody read\n");
    let error = soon(engine().adopt(&process, &place.place)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, EngineError::NotOurs { .. }), "{error}");
}

/// Its threads then wait for each other, unless it is lucky; see [`crate::firecracker::machine`].
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a firecracker (BANGER_TEST_FIRECRACKER) and a /dev/kvm that opens"]
async fn a_guest_that_ends_while_its_vmm_is_asked_something_has_ended() {
    let mut stuck = 0;
    for round in 0..10 {
        let place = TestPlace::new();
        let spec = MachineSpec {
            kernel: place.file("reset.elf", &resetting_kernel(1 << 28)),
            ..place.spec()
        };
        let machine = soon(engine().start(&spec, &place.place)).await.unwrap();
        let questions = async {
            while machine.answers().await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let exit = tokio::select! {
            exit = soon(machine.wait()) => exit,
            () = questions => unreachable!("they have no end"),
        };
        assert_eq!(exit.reason, ExitReason::GuestPowerOff, "{round}: {exit:?}");
        assert_eq!(exit.detail, "", "{round}");
        stuck += usize::from(exit.code.is_none());
    }
    println!("{stuck} of 10 VMMs did not end by themselves");
}
