//! A private place per test, an engine, and looks at processes.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use banger_engine::{
    Accel, Engine, EngineError, EngineKind, Host, MachineSpec, NetworkMode, Place, Wish,
};
use rustix::process::{Pid, PidfdFlags, Signal};

/// Directories that go with the test.
pub(crate) struct TestPlace {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) place: Place,
}

impl TestPlace {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let log_dir = dir.path().join("log");
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

    /// A machine whose kernel is a single `hlt` in a loop, entered by PVH.
    pub(crate) fn idle(&self) -> MachineSpec {
        let kernel = self.dir.path().join("idle.elf");
        std::fs::write(&kernel, idle_kernel()).unwrap();
        let initrd = self.dir.path().join("empty.cpio");
        std::fs::write(&initrd, [0; 512]).unwrap();
        MachineSpec {
            cpus: 1,
            mem_mib: 64,
            huge_pages: false,
            jail_root: None,
            kernel,
            initrd,
            cmdline_extra: String::new(),
            drives: Vec::new(),
            network: NetworkMode::User,
            tap: None,
        }
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        path
    }

    pub(crate) fn assert_no_sockets(&self) {
        let left: Vec<_> = std::fs::read_dir(&self.place.run_dir).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The processes that work in this place.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found: Vec<i32> = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap() {
            let entry = entry.unwrap();
            let cwd = std::fs::read_link(entry.path().join("cwd"));
            if cwd.is_ok_and(|cwd| cwd == self.place.run_dir) {
                found.push(entry.file_name().to_str().unwrap().parse().unwrap());
            }
        }
        found
    }
}

impl Drop for TestPlace {
    /// A failed test drops its machines without ending them.
    fn drop(&mut self) {
        for pid in self.processes() {
            signal(pid, Signal::KILL);
        }
    }
}

/// QEMU with this acceleration.
pub(crate) fn qemu(accel: Option<Accel>) -> Result<Arc<dyn Engine>, EngineError> {
    Host::look().choose(&Wish {
        engine: Some(EngineKind::Qemu),
        accel,
        network: NetworkMode::User,
        jailed: false,
    })
}

pub(crate) async fn engine() -> Arc<dyn Engine> {
    qemu(Some(Accel::Tcg)).unwrap()
}

/// Whether a process of this number exists, zombies included.
pub(crate) fn alive(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(pidfd, signal).unwrap();
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5); from 3 on.
pub(crate) fn stat_field(stat: &str, number: usize) -> &str {
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_ascii_whitespace().nth(number - 3).unwrap()
}

/// An ELF file of one loadable segment with a PVH note: `cli; hlt; jmp` back.
fn idle_kernel() -> Vec<u8> {
    const BASE: u32 = 0x0010_0000;
    const CODE: u32 = 0x200;
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend(2u16.to_le_bytes());
    elf.extend(62u16.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    elf.extend(u64::from(BASE + CODE).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend(0u64.to_le_bytes());
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let mut segment = |kind: u32, offset: u64, size: u64| {
        elf.extend(kind.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        for word in [
            offset,
            u64::from(BASE) + offset,
            u64::from(BASE) + offset,
            size,
            size,
            4,
        ] {
            elf.extend(word.to_le_bytes());
        }
    };
    segment(1, 0, 0x210);
    segment(4, 0x100, 24);
    elf.resize(0x100, 0);
    // Name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY, name, entry.
    for word in [4u32, 8, 18] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"Xen\0");
    elf.extend(u64::from(BASE + CODE).to_le_bytes());
    elf.resize(0x200, 0);
    elf.extend([0xfa, 0xf4, 0xeb, 0xfc]);
    elf.resize(0x210, 0);
    elf
}
