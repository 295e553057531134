//! Messages against the documented layout; the real thing where the kernel has it.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::*;
use crate::dirs::Dir;
use crate::dirs::tests::{cannot_run, is_root, wait_until};
use crate::loopdev::Loop;
use crate::loopdev::tests::comes_free;

#[test]
fn a_request_is_laid_out_as_documented() {
    let target = |kind: &str, params: &str| Target {
        start: 0,
        length: 8,
        kind: kind.to_owned(),
        params: params.to_owned(),
    };
    let targets = [target("snapshot", "7:0 7:1 P 8"), target("zero", "")];
    let request = Request {
        name: "",
        uuid: "u-1",
        flags: READONLY,
        event_nr: 5,
        targets: &targets,
        ..Request::default()
    };
    let bytes = request.encode().unwrap();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!([word(0), word(4), word(8)], [4, 27, 0]);
    assert_eq!(usize::try_from(word(12)).unwrap(), bytes.len());
    // Start of data, targets, open count, flags, event.
    assert_eq!(
        [word(16), word(20), word(24), word(28), word(32)],
        [312, 2, 0, 1, 5]
    );
    assert_eq!(&bytes[176..180], b"u-1\0");
    // The first specification: 40 bytes, its parameters, and up to the next multiple of 8.
    assert_eq!(word(312 + 20), 56);
    assert_eq!(&bytes[312 + 24..312 + 33], b"snapshot\0");
    assert_eq!(&bytes[312 + 40..312 + 52], b"7:0 7:1 P 8\0");
    assert_eq!(&bytes[368 + 24..368 + 29], b"zero\0");
    assert_eq!(word(368 + 20), 48);
}

#[test]
fn what_does_not_fit_or_is_not_text_is_refused() {
    let long = "n".repeat(128);
    for name in [long.as_str(), "a\nb", "a\0b", "ü", "a\x1b[m"] {
        let request = Request::about(By::Name(name));
        assert!(
            matches!(request.encode(), Err(DmError::Unfit(_))),
            "{name:?}"
        );
    }
    assert!(Request::about(By::Name(&long[1..])).encode().is_ok());
    assert!(Request::about(By::Uuid(&long)).encode().is_ok());
    let targets = [Target {
        start: 0,
        length: 1,
        kind: "a-type-of-16-chr".to_owned(),
        params: String::new(),
    }];
    let request = Request {
        targets: &targets,
        ..Request::default()
    };
    assert!(matches!(request.encode(), Err(DmError::Unfit(_))));
}

#[test]
fn answers_that_are_cut_are_malformed() {
    let whole = Request::about(By::Name("x")).encode().unwrap();
    for length in [0, 11, 40, 175, 304, 311] {
        assert!(Answer::decode(whole[..length].to_vec()).is_err());
    }
    assert_eq!(
        Answer::decode(whole.clone()).unwrap().info().unwrap().name,
        "x"
    );
    // Data said to be longer than the buffer.
    let mut bytes = whole.clone();
    bytes[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(Answer::decode(bytes).is_err());
    // A list whose second entry would be outside.
    let mut bytes = whole;
    bytes[312] = 1;
    bytes[320..324].copy_from_slice(&0x7fff_ffff_u32.to_ne_bytes());
    assert!(Answer::decode(bytes).unwrap().names().is_err());
}

fn mapper() -> Option<DeviceMapper> {
    if !is_root() {
        return None;
    }
    match DeviceMapper::open() {
        Ok(mapper) => Some(mapper),
        Err(error) => {
            cannot_run(&format!("{error}"));
            None
        }
    }
}

fn errno<T: std::fmt::Debug>(result: Result<T, DmError>) -> Errno {
    match result {
        Err(DmError::Kernel { errno, .. }) => errno,
        other => panic!("{other:?}"),
    }
}

/// A file of `text` repeated, as a loop device.
fn looped(text: &[u8; 512], sectors: u64, read_only: bool) -> Loop {
    let file = tempfile::tempfile().unwrap();
    file.set_len(sectors * 512).unwrap();
    if read_only {
        for sector in 0..sectors {
            file.write_all_at(text, sector * 512).unwrap();
        }
    }
    Loop::attach(file.as_fd(), read_only).unwrap()
}

fn number_of(device: Dev) -> String {
    format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    )
}

/// What LVM's own program reads of a device: its "table" or its "status".
fn shown(what: &str, name: &str) -> String {
    let asked = std::process::Command::new("/sbin/dmsetup")
        .args([what, name])
        .output()
        .unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().to_owned()
}

#[test]
fn lab_dm_snapshot_lives_and_goes() {
    const SECTORS: u64 = 2048;
    let Some(mapper) = mapper() else { return };
    let own = std::process::id();
    let (name, uuid) = (format!("test-{own}"), format!("test-uuid-{own}-1"));
    let by = By::Uuid(&uuid);
    assert_eq!(mapper.info(by).unwrap(), None);
    assert_eq!(errno(mapper.remove(by, false)), Errno::NXIO);
    let base = looped(&[7; 512], SECTORS, true);
    let store = looped(&[0; 512], 256, false);
    let made = mapper.create(&name, &uuid).unwrap();
    assert_eq!((made.name.as_str(), made.uuid.as_str()), (&*name, &*uuid));
    assert!(!made.active);
    assert_eq!(errno(mapper.create(&name, "other")), Errno::BUSY);
    assert_eq!(errno(mapper.create("other", &uuid)), Errno::BUSY);
    assert_eq!(errno(mapper.create("a/b", "c")), Errno::INVAL);
    let params = format!(
        "{} {} P 8",
        number_of(base.device()),
        number_of(store.device())
    );
    let table = [Target {
        start: 0,
        length: SECTORS,
        kind: "snapshot".to_owned(),
        params,
    }];
    mapper.load(by, &table, false).unwrap();
    let live = mapper.resume(by).unwrap();
    assert!(live.active && !live.suspended && !live.read_only);
    assert_eq!(
        shown("table", &name),
        format!("0 {SECTORS} snapshot {}", table[0].params)
    );
    assert_eq!(
        shown("status", &name),
        format!("0 {SECTORS} snapshot 16/256 16")
    );
    assert!(
        mapper
            .list()
            .unwrap()
            .contains(&mapper.info(by).unwrap().unwrap())
    );
    // Held by the table alone from here on.
    let loops = [base.device(), store.device()];
    drop((base, store));

    let place = tempfile::tempdir_in("/root").unwrap();
    let dir = Dir::open(place.path().to_str().unwrap()).unwrap();
    dir.create_block_node("node", 0o600, live.device).unwrap();
    let node = std::fs::File::options()
        .read(true)
        .write(true)
        .open(place.path().join("node"))
        .unwrap();
    let mut sector = [0; 512];
    node.read_exact_at(&mut sector, 512).unwrap();
    assert_eq!(sector, [7; 512]);
    node.write_all_at(&[9; 4096], 0).unwrap();
    node.sync_all().unwrap();
    node.read_exact_at(&mut sector, 0).unwrap();
    assert_eq!(sector, [9; 512]);
    assert_eq!(
        shown("status", &name),
        format!("0 {SECTORS} snapshot 24/256 16")
    );

    assert_eq!(mapper.info(by).unwrap().unwrap().open_count, 1);
    assert_eq!(errno(mapper.remove(by, false)), Errno::BUSY);
    assert_eq!(mapper.remove(by, true).unwrap(), Removed::Deferred);
    assert!(mapper.info(by).unwrap().unwrap().deferred_remove);
    drop(node);
    wait_until(|| mapper.info(by).unwrap().is_none());
    loops.into_iter().for_each(comes_free);
}

#[test]
fn lab_dm_full_store_is_told_and_the_base_is_whole() {
    let Some(mapper) = mapper() else { return };
    let own = std::process::id();
    let (name, uuid) = (format!("test-full-{own}"), format!("test-uuid-{own}-2"));
    let by = By::Uuid(&uuid);
    let base = looped(&[7; 512], 512, true);
    let store = looped(&[0; 512], 64, false);
    let made = mapper.create(&name, &uuid).unwrap();
    let params = format!(
        "{} {} P 8",
        number_of(base.device()),
        number_of(store.device())
    );
    let table = Target {
        start: 0,
        length: 512,
        kind: "snapshot".to_owned(),
        params,
    };
    mapper.load(by, &[table], false).unwrap();
    mapper.resume(by).unwrap();
    let place = tempfile::tempdir_in("/root").unwrap();
    let dir = Dir::open(place.path().to_str().unwrap()).unwrap();
    dir.create_block_node("node", 0o600, made.device).unwrap();
    let node = std::fs::File::options()
        .write(true)
        .open(place.path().join("node"))
        .unwrap();
    let wrote = (0..64).try_for_each(|chunk| node.write_all_at(&[9; 4096], chunk * 4096));
    assert!(wrote.and_then(|()| node.sync_all()).is_err());
    assert_eq!(shown("status", &name), "0 512 snapshot Invalid");
    drop(node);
    assert_eq!(mapper.remove(by, true).unwrap(), Removed::Now);
    let mut sector = [0; 512];
    rustix::io::pread(&base, &mut sector, 0).unwrap();
    assert_eq!(sector, [7; 512]);
}

#[test]
fn lab_dm_udev_does_not_read_what_is_on_a_device() {
    const SECTORS: u64 = 8192;
    let Some(mapper) = mapper() else { return };
    let own = std::process::id();
    let (name, uuid) = (format!("test-udev-{own}"), format!("test-uuid-{own}-3"));
    let by = By::Uuid(&uuid);
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(SECTORS * 512).unwrap();
    let made = std::process::Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4"])
        .arg(image.path())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return cannot_run("mke2fs is missing");
    }
    let settle = || {
        std::process::Command::new("/usr/bin/udevadm")
            .arg("settle")
            .status()
    };
    if !settle().is_ok_and(|status| status.success()) {
        return cannot_run("there is no udev");
    }
    let base = Loop::attach(image.as_file().as_fd(), false).unwrap();
    let device = mapper.create(&name, &uuid).unwrap().device;
    let table = Target {
        start: 0,
        length: SECTORS,
        kind: "linear".to_owned(),
        params: format!("{} 0", number_of(base.device())),
    };
    mapper.load(by, &[table], true).unwrap();
    assert!(mapper.resume(by).unwrap().read_only);
    settle().unwrap();
    let known = |device| std::fs::read_to_string(format!("/run/udev/data/b{}", number_of(device)));
    println!("udev of the loop: {:?}", known(base.device()));
    let of_dm = known(device).unwrap_or_default();
    println!("udev of the device: {of_dm:?}");
    assert!(!of_dm.contains("ID_FS_"), "{of_dm}");
    assert_eq!(mapper.remove(by, true).unwrap(), Removed::Now);
}
