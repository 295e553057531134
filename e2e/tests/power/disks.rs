//! A disk whose every write is logged, and another that takes the states that a power cut could have
//! left the first in. Device-mapper and loop devices, by their own tools; taken away when dropped.

use e2e::{eventually, finish};
use rustix::fs::{SeekFrom, seek};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The disk's size, and how much can be logged of it, in bytes: sparse files.
pub(crate) const DISK: u64 = 3 << 30;
const LOG: u64 = 4 << 30;

/// Where the disk is mounted: socket paths are short.
const MOUNT: &str = "/tmp/banger-power";

/// What links on the disk lead to: kernels and images, wherever this host has them.
pub(crate) const STORE: &str = "/tmp/banger-power-store";

/// The name of the device that logs: nobody else's on a host made for this.
const DEVICE: &str = "banger-power";

/// A mounted disk. What is below `run` is in memory, and gone with the power.
#[derive(Debug)]
struct Mounted {
    commands: Vec<Vec<String>>,
}

impl Mounted {
    fn new(what: &[&str]) -> Self {
        let mut mounted = Self {
            commands: Vec::new(),
        };
        must(&[&["mount"], what, &[MOUNT]].concat());
        mounted.then(&["umount", MOUNT]);
        let run = format!("{MOUNT}/run");
        fs::create_dir_all(&run).unwrap();
        must(&["mount", "-t", "tmpfs", "-o", "mode=0700", "run", &run]);
        mounted.then(&["umount", &run]);
        mounted
    }

    /// What is to be done at the end, before what was named so far.
    fn then(&mut self, argv: &[&str]) {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        self.commands.push(argv);
    }

    /// Lets go of it.
    fn end(mut self) {
        while let Some(argv) = self.commands.pop() {
            let mut command = Command::new(&argv[0]);
            command.args(&argv[1..]);
            // The last threads of what was killed may still be closing their files.
            eventually(&argv.join(" "), || finish(&mut command).code == 0);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for argv in self.commands.iter().rev() {
            Command::new(&argv[0]).args(&argv[1..]).output().ok();
        }
    }
}

/// The directories and links that both disks want.
#[derive(Debug)]
struct Places(tempfile::TempDir);

impl Places {
    fn new() -> Self {
        let store = PathBuf::from(std::env::var_os("BANGER_E2E_STORE").unwrap());
        // They may be left of one that was itself cut off.
        fs::create_dir_all(MOUNT).unwrap();
        fs::remove_file(STORE).ok();
        symlink(fs::canonicalize(store).unwrap().join("data"), STORE).unwrap();
        // Not in memory: the log wants room.
        Self(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    fn sparse(&self, name: &str, size: u64) -> PathBuf {
        let path = self.0.path().join(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        fs::remove_dir(MOUNT).ok();
        fs::remove_file(STORE).ok();
    }
}

/// The disk whose writes are logged, from its file system's making on.
#[derive(Debug)]
pub(crate) struct Recorded {
    mounted: Mounted,
    log: PathBuf,
    _places: Places,
}

impl Recorded {
    pub(crate) fn new() -> Self {
        let places = Places::new();
        let log = places.sparse("log", LOG);
        let mut devices = Mounted {
            commands: Vec::new(),
        };
        let mut attach = |path: &Path| {
            let device = must(&["losetup", "--find", "--show", path.to_str().unwrap()]);
            let device = device.trim().to_owned();
            devices.then(&["losetup", "--detach", &device]);
            device
        };
        let disk = attach(&places.sparse("disk", DISK));
        let to = attach(&log);
        let table = format!("0 {} log-writes {disk} {to}", DISK / 512);
        must(&["dmsetup", "create", DEVICE, "--table", &table]);
        devices.then(&["dmsetup", "remove", "--retry", DEVICE]);
        let device = format!("/dev/mapper/{DEVICE}");
        // What is made lazily would be written, and logged, at moments of the kernel's choice.
        let whole = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        must(&[
            "mkfs.ext4",
            "-q",
            "-N",
            "4096",
            "-J",
            "size=16",
            "-E",
            whole,
            &device,
        ]);
        let mut mounted = Mounted::new(&[&device]);
        // Last in, first out: they go when the file system is gone.
        mounted
            .commands
            .splice(0..0, std::mem::take(&mut devices.commands));
        Self {
            mounted,
            log,
            _places: places,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(MOUNT)
    }

    /// Notes in the log that something is so by now.
    pub(crate) fn mark(text: &str) {
        must(&["dmsetup", "message", DEVICE, "0", "mark", text]);
    }

    /// Ends the recording; what was logged is copied to `log`.
    pub(crate) fn end(self, log: &Path) {
        self.mounted.end();
        let from = File::open(&self.log).unwrap();
        let to = File::create(log).unwrap();
        copy(&from, &to).unwrap();
    }
}

/// The disk that the log is replayed upon. Each time it is looked at, that is a copy of it.
#[derive(Debug)]
pub(crate) struct Copy {
    disk: File,
    cut: PathBuf,
    mounted: Option<Mounted>,
    _places: Places,
}

impl Copy {
    pub(crate) fn new() -> Self {
        let places = Places::new();
        let disk = places.sparse("disk", DISK);
        let cut = places.0.path().join("cut");
        let disk = File::options().read(true).write(true).open(disk).unwrap();
        Self {
            disk,
            cut,
            mounted: None,
            _places: places,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(MOUNT)
    }

    /// What the log is replayed upon.
    pub(crate) fn disk(&self) -> &File {
        &self.disk
    }

    /// Mounts it as it is now, after `tear` was let at it.
    pub(crate) fn cut(&mut self, tear: impl FnOnce(&File)) {
        // Another file each time: a loop device that is still going would be taken for this one's.
        fs::remove_file(&self.cut).ok();
        let cut = File::create(&self.cut).unwrap();
        copy(&self.disk, &cut).unwrap();
        cut.set_len(DISK).unwrap();
        tear(&cut);
        drop(cut);
        let cut = self.cut.to_str().unwrap();
        self.mounted = Some(Mounted::new(&["-o", "loop", cut]));
    }

    /// Lets go of that.
    pub(crate) fn mend(&mut self) {
        self.mounted.take().unwrap().end();
    }
}

/// Copies a sparse file as far as it has data.
fn copy(from: &File, to: &File) -> io::Result<()> {
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    while let Ok(start) = seek(from, SeekFrom::Data(at)) {
        at = seek(from, SeekFrom::Hole(start))?;
        let mut done = start;
        while done < at {
            let most = usize::try_from(at - done).unwrap_or(usize::MAX);
            let part = &mut bytes[..most.min(1 << 20)];
            from.read_exact_at(part, done)?;
            to.write_all_at(part, done)?;
            done += part.len() as u64;
        }
    }
    Ok(())
}

#[track_caller]
fn must(argv: &[&str]) -> String {
    let outcome = finish(Command::new(argv[0]).args(&argv[1..]));
    assert_eq!(outcome.code, 0, "{argv:?}: {outcome:#?}");
    outcome.stdout
}
