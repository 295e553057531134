//! Real loop devices over small files.

use std::os::unix::fs::MetadataExt;

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

/// At once, but where udev has it open to look at it.
fn comes_free(number: u32) {
    wait_until(|| Loop::open(number).unwrap().status().unwrap().is_none());
}

#[test]
fn loop_shows_its_file_and_goes_with_its_last_opener() {
    if !can_run() {
        return;
    }
    let file = backing();
    let meta = file.metadata().unwrap();
    let device = Loop::attach(file.as_fd(), Setup::default()).unwrap();
    let status = device.status().unwrap().unwrap();
    assert_eq!(
        (status.backing_device, status.backing_inode),
        (meta.dev(), meta.ino())
    );
    assert!(status.autoclear && !status.read_only);
    assert_eq!((status.offset, status.size_limit), (0, 0));
    assert_eq!(rustix::io::pwrite(&device, &[7; 512], 512).unwrap(), 512);
    rustix::fs::fsync(&device).unwrap();
    let mut sector = [0; 512];
    rustix::io::pread(&file, &mut sector, 512).unwrap();
    assert_eq!(sector, [7; 512]);
    assert_eq!(major(device.device()), MAJOR);
    let number = device.number();
    drop(device);
    comes_free(number);
}

#[test]
fn loop_read_only_refuses_writes() {
    if !can_run() {
        return;
    }
    let file = backing();
    let setup = Setup {
        read_only: true,
        direct_io: true,
    };
    let device = Loop::attach(file.as_fd(), setup).unwrap();
    assert!(device.status().unwrap().unwrap().read_only);
    let path = format!("/dev/loop{}", device.number());
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
fn loop_detach_refuses_what_backs_something_else() {
    if !can_run() {
        return;
    }
    let (file, other) = (backing(), backing());
    let (ours, foreign) = (file.metadata().unwrap(), other.metadata().unwrap());
    let device = Loop::attach(file.as_fd(), Setup::default()).unwrap();
    for (dev, ino) in [(foreign.dev(), foreign.ino()), (ours.dev() + 1, ours.ino())] {
        let refused = device.detach(dev, ino).unwrap_err();
        assert!(matches!(refused, LoopError::NotOurs(_)), "{refused}");
    }
    assert!(device.status().unwrap().is_some());
    device.detach(ours.dev(), ours.ino()).unwrap();
    let number = device.number();
    drop(device);
    comes_free(number);
    let again = Loop::open(number).unwrap().detach(ours.dev(), ours.ino());
    assert!(matches!(again, Err(LoopError::NotOurs(_))));
}

#[test]
fn loop_attach_gives_each_of_many_its_own() {
    if !can_run() {
        return;
    }
    let attach = || {
        let file = backing();
        let inode = file.metadata().unwrap().ino();
        let device = Loop::attach(file.as_fd(), Setup::default()).unwrap();
        assert_eq!(device.status().unwrap().unwrap().backing_inode, inode);
        device
    };
    let mut numbers: Vec<u32> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..4).map(|_| scope.spawn(attach)).collect();
        let held: Vec<Loop> = started.into_iter().map(|one| one.join().unwrap()).collect();
        held.iter().map(Loop::number).collect()
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
        Loop::open(1_048_000),
        Err(LoopError::NoNode(1_048_000))
    ));
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let refused = Loop::attach(pipe.as_fd(), Setup::default()).unwrap_err();
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
