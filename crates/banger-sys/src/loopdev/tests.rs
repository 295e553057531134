//! Real loop devices over small files.

use super::*;
use crate::dirs::tests::{cannot_run, is_root, wait_until};

fn can_run() -> bool {
    if !is_root() {
        return false;
    }
    let has_loops = std::path::Path::new("/dev/loop-control").exists();
    if !has_loops {
        cannot_run("there is no /dev/loop-control");
    }
    has_loops
}

fn backing() -> std::fs::File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    file
}

/// What the kernel's own table has of a device; nothing of one that backs nothing.
fn attribute(device: Dev, name: &str) -> Option<String> {
    let number = rustix::fs::minor(device);
    let text = std::fs::read_to_string(format!("/sys/block/loop{number}/{name}")).ok()?;
    Some(text.trim().to_owned())
}

/// At once, but where udev has it open to look at it.
pub(crate) fn comes_free(device: Dev) {
    wait_until(|| attribute(device, "loop/backing_file").is_none());
}

#[test]
fn loop_shows_its_file_and_goes_with_its_last_opener() {
    if !can_run() {
        return;
    }
    let file = backing();
    let device = Loop::attach(file.as_fd(), false).unwrap();
    let loops = |name| attribute(device.device(), name);
    assert_eq!(loops("loop/autoclear").as_deref(), Some("1"));
    assert_eq!(loops("ro").as_deref(), Some("0"));
    assert_eq!(loops("loop/offset").as_deref(), Some("0"));
    assert_eq!(rustix::io::pwrite(&device, &[7; 512], 512).unwrap(), 512);
    rustix::fs::fsync(&device).unwrap();
    let mut sector = [0; 512];
    rustix::io::pread(&file, &mut sector, 512).unwrap();
    assert_eq!(sector, [7; 512]);
    assert_eq!(major(device.device()), MAJOR);
    let number = device.device();
    drop(device);
    comes_free(number);
}

#[test]
fn loop_read_only_refuses_writes() {
    if !can_run() {
        return;
    }
    let file = backing();
    let device = Loop::attach(file.as_fd(), true).unwrap();
    assert_eq!(attribute(device.device(), "ro").as_deref(), Some("1"));
    let path = format!("/dev/loop{}", rustix::fs::minor(device.device()));
    let written = std::fs::File::options()
        .write(true)
        .open(path)
        .and_then(|device| std::os::unix::fs::FileExt::write_at(&device, &[1; 512], 0));
    assert!(written.is_err());
    assert_eq!(
        rustix::io::pread(&device, &mut [0; 512], 0).unwrap(),
        512,
        "it can be read"
    );
}

#[test]
fn loop_attach_gives_each_of_many_its_own() {
    if !can_run() {
        return;
    }
    let attach = || {
        let file = backing();
        Loop::attach(file.as_fd(), false).unwrap()
    };
    let mut numbers: Vec<Dev> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..4).map(|_| scope.spawn(attach)).collect();
        let held: Vec<Loop> = started.into_iter().map(|one| one.join().unwrap()).collect();
        held.iter().map(Loop::device).collect()
    });
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4);
}

#[test]
fn loop_errors_say_what_is_wrong() {
    if !can_run() {
        return;
    }
    assert!(matches!(
        Loop::open(1_048_000, OFlags::RDONLY),
        Err(LoopError::NoNode(1_048_000))
    ));
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let refused = Loop::attach(pipe.as_fd(), false).unwrap_err();
    assert!(
        matches!(
            refused,
            LoopError::Kernel {
                errno: Errno::INVAL,
                ..
            }
        ),
        "{refused:?}"
    );
}
