//! A VM's files, as a daemon of the owner's would have them, and what its guest says.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use banger_priv::{FileRole, Launch, Reply, Request, VmRef};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::{Value, json};

use crate::bench::{Bench, Done, LIMIT, OWNER};

const BOOT_ARGS: &str = "console=ttyS0 quiet reboot=k panic=1 oops=panic pci=off cryptomgr.notests \
                         random.trust_cpu=on net.ifnames=0 i8042.noaux i8042.nomux i8042.dumbkbd";
pub(crate) const MEMORY_MIB: u32 = 128;

/// What a launch takes, and the daemon's ends of it.
pub(crate) struct Guest {
    pub(crate) vm: VmRef,
    pub(crate) files: Vec<(FileRole, OwnedFd)>,
    console: File,
    log: File,
    ready: UnixListener,
    vmm: Option<OwnedFd>,
    /// Files of this VM, to be removed.
    own: Vec<PathBuf>,
}

/// A file of the owner's with exactly this mode.
pub(crate) fn make_file(path: &Path, text: &[u8], mode: u32) {
    fs::write(path, text).unwrap();
    take(path, mode);
}

fn take(path: &Path, mode: u32) {
    chown(path, Some(OWNER), Some(OWNER)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn make_fifo(path: &Path, mode: u32) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    take(path, mode);
}

pub(crate) fn open(path: &Path, flags: OFlags) -> OwnedFd {
    rustix::fs::open(
        path,
        flags | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .unwrap()
}

/// What the lab was given to boot.
pub(crate) fn boot_file(name: &str) -> PathBuf {
    let path = PathBuf::from(std::env::var_os("BANGER_TEST_BOOT").unwrap()).join(name);
    take(&path, 0o444);
    path
}

/// A copy of it, a VM's own.
pub(crate) fn copy_boot_file(name: &str, to: &Path, mode: u32) {
    make_file(to, &fs::read(boot_file(name)).unwrap(), mode);
}

/// The root file system's drive, at this place in the jail.
pub(crate) fn root_drive(path: &str) -> Value {
    json!([{"drive_id": "root", "path_on_host": path, "is_root_device": false,
            "is_read_only": false, "cache_type": "Writeback"}])
}

impl Guest {
    /// A VM with its root file system on a disk of its own.
    pub(crate) fn new(bench: &Bench, vm: &VmRef) -> Self {
        let mut guest = Self::with_drives(bench, vm, &root_drive("/disk0"));
        let disk = bench.path("files").join(format!("{}.disk", vm.id));
        copy_boot_file("rootfs.ext4", &disk, 0o660);
        guest.own(&disk);
        guest.replace(FileRole::Disk(0), open(&disk, OFlags::RDWR));
        guest
    }

    pub(crate) fn with_drives(bench: &Bench, vm: &VmRef, drives: &Value) -> Self {
        let path = |name: &str| bench.path("files").join(format!("{}.{name}", vm.id));
        let machine = json!({
            "boot-source": {
                "kernel_image_path": "/kernel", "initrd_path": "/initrd", "boot_args": BOOT_ARGS,
            },
            "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB, "huge_pages": "2M"},
            "drives": drives,
            "vsock": {"guest_cid": 3, "uds_path": "/run/vsock.sock"},
            "entropy": {},
        });
        copy_boot_file("initrd", &path("initrd"), 0o640);
        make_file(&path("machine"), machine.to_string().as_bytes(), 0o640);
        for fifo in ["console", "log"] {
            make_fifo(&path(fifo), 0o660);
        }
        let read = |name: &str| {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path(name));
            file.unwrap()
        };
        let ready = UnixListener::bind(path("ready")).unwrap();
        take(&path("ready"), 0o660);
        let (console, log) = (read("console"), read("log"));
        let files = vec![
            (
                FileRole::Kernel,
                open(&boot_file("vmlinux"), OFlags::RDONLY),
            ),
            (FileRole::Initrd, open(&path("initrd"), OFlags::RDONLY)),
            (FileRole::Machine, open(&path("machine"), OFlags::RDONLY)),
            (FileRole::Console, open(&path("console"), OFlags::WRONLY)),
            (FileRole::Log, open(&path("log"), OFlags::PATH)),
            (FileRole::Ready, open(&path("ready"), OFlags::PATH)),
        ];
        Self {
            vm: vm.clone(),
            files,
            console,
            log,
            ready,
            vmm: None,
            own: ["initrd", "machine", "console", "log", "ready"]
                .map(path)
                .to_vec(),
        }
    }

    /// Puts another file in the place of the one of this role, or adds it.
    pub(crate) fn replace(&mut self, role: FileRole, fd: OwnedFd) {
        self.files.retain(|(other, _)| *other != role);
        self.files.push((role, fd));
    }

    /// Adds a file of this VM's, to be removed with it.
    pub(crate) fn own(&mut self, path: &Path) {
        self.own.push(path.to_owned());
    }

    pub(crate) fn request(&self) -> Request {
        Request::LaunchFirecracker(Launch {
            vm: self.vm.clone(),
            cpus: 1,
            memory_mib: MEMORY_MIB,
            files: self.files.iter().map(|(role, _)| *role).collect(),
        })
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().map(|(_, fd)| fd.as_fd()).collect()
    }

    pub(crate) fn launch(&self, bench: &Bench) -> Done {
        bench.ask(&self.request(), &self.fds())
    }

    /// Launches it; the VMM's pid and pidfd.
    pub(crate) fn start(&mut self, bench: &Bench) -> (u32, OwnedFd) {
        match self.launch(bench) {
            Ok((Reply::Vmm(vmm), fds)) => {
                let pidfd = fds.into_iter().next().unwrap();
                self.vmm = Some(pidfd.try_clone().unwrap());
                (vmm.pid, pidfd)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the guest's agent says at the console, and through the vsock, that it is there.
    pub(crate) fn wait_ready(&mut self) {
        let start = Instant::now();
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains("banger-agent: ready") {
            let left = LIMIT.saturating_sub(start.elapsed());
            let timeout = left.try_into().unwrap();
            let vmm = self.vmm.as_ref().unwrap();
            let console = PollFd::new(&self.console, PollFlags::IN);
            poll(
                &mut [console, PollFd::new(vmm, PollFlags::IN)],
                Some(&timeout),
            )
            .unwrap();
            let more = self.console();
            let text = String::from_utf8_lossy(&said);
            assert!(!more.is_empty(), "after {text:?}: {}", self.log());
            said.extend(more.into_bytes());
        }
        self.ready.accept().unwrap();
        println!(
            "{:>8.1} ms  to the agent's ready",
            start.elapsed().as_secs_f64() * 1e3
        );
    }

    /// What the VMM has logged and nobody read yet.
    pub(crate) fn log(&mut self) -> String {
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = self.log.read(&mut chunk) {
            text.extend(&chunk[..length]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What is at the console and nobody read yet.
    pub(crate) fn console(&mut self) -> String {
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = self.console.read(&mut chunk) {
            text.extend(&chunk[..length]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("console: {}\nlog: {}", self.console(), self.log());
        }
        for path in &self.own {
            drop(fs::remove_file(path));
        }
    }
}

/// Asks Firecracker at its API's socket, an `O_PATH` descriptor.
pub(crate) fn get(socket: &OwnedFd, path: &str) -> String {
    let mut stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .unwrap();
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while !said.ends_with(b"}") {
        let length = stream.read(&mut chunk).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&said));
        said.extend(&chunk[..length]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Waits until the process of a pidfd has ended.
pub(crate) fn wait_ended(pidfd: &OwnedFd) {
    let timeout = LIMIT.try_into().unwrap();
    assert_eq!(
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)),
        Ok(1)
    );
}
