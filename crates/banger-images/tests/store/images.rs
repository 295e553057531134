//! Importing, listing and removing images.

use crate::archive::{Scene, Tar, assert_clean, debugfs, list};
use banger_images::{ImagesError, NoProgress, Progress, ProgressSink};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// An archive with one of everything that an image may hold.
fn everything() -> Tar {
    let setuid = |header: &mut [u8; 512]| header[100..108].copy_from_slice(b"0004755\0");
    let null = |header: &mut [u8; 512]| {
        header[329..337].copy_from_slice(b"0000001\0");
        header[337..345].copy_from_slice(b"0000003\0");
    };
    let nobody = |header: &mut [u8; 512]| {
        header[108..116].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xfe");
        header[136..148].fill(0xff);
    };
    Tar::new()
        .directory("./")
        .directory("./bin")
        .add_with(b'0', b"./bin/su", b"program", b"", setuid)
        .hardlink("bin/su2", "./bin/su")
        .symlink("sbin", "bin")
        .add_with(b'3', b"dev/null", b"", b"", null)
        .add(b'6', b"fifo", b"", b"")
        .add_with(b'0', b"odd", b"", b"", nobody)
        .pax(&[
            ("mtime", b"1700000000.123456789"),
            (
                "SCHILY.xattr.security.capability",
                b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            ("SCHILY.xattr.user.note", b"two\nlines"),
        ])
        .file("capable", b"")
        .file(&format!("long/{}/file", "n".repeat(200)), &[5; 10_000])
        .directory("lost+found")
}

#[test]
fn image_keeps_what_the_archive_says() {
    let scene = Scene::new();
    let image = scene.import(&everything().finish()).unwrap();
    let path = image.path();
    assert_clean(&path);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o400
    );
    let su = debugfs(&path, "stat /bin/su");
    assert!(
        su.contains("Mode:  04755") && su.contains("Links: 2"),
        "{su}"
    );
    let null = debugfs(&path, "stat /dev/null");
    assert!(
        null.contains("character special") && null.contains("01:03"),
        "{null}"
    );
    assert!(debugfs(&path, "stat /fifo").contains("Type: FIFO"));
    assert!(debugfs(&path, "stat /sbin").contains("Fast link dest: \"bin\""));
    let odd = debugfs(&path, "stat /odd");
    assert!(
        odd.contains("User:    -2") && odd.contains("mtime: 0xffffffff"),
        "{odd}"
    );
    let capable = debugfs(&path, "stat /capable");
    assert!(capable.contains("mtime: 0x6553f100:1d6f3454"), "{capable}");
    assert!(
        capable.contains("security.capability") && capable.contains("user.note"),
        "{capable}"
    );
    let long = debugfs(&path, &format!("stat /long/{}/file", "n".repeat(200)));
    assert!(long.contains("Size: 10000"), "{long}");
    assert_eq!(image.size % 4096, 0);
    assert!(image.disk_usage < 2 << 20, "{}", image.disk_usage);
}

#[test]
fn same_tree_gives_the_same_digest_in_any_order_and_form() {
    let one = Tar::new()
        .directory("a")
        .file("a/x", b"1")
        .file("b", b"2")
        .finish();
    let other = Tar::new()
        .file("./b", b"old")
        .directory("./a")
        .file("./b", b"2")
        .file("./a//x", b"1");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&other.finish()).unwrap();
    let digest = |bytes: &[u8]| Scene::new().import(bytes).unwrap().digest;
    assert_eq!(digest(&one), digest(&gzip.finish().unwrap()));
    let changed = Tar::new()
        .directory("a")
        .file("a/x", b"1")
        .file("b", b"3")
        .finish();
    assert_ne!(digest(&one), digest(&changed));
}

#[test]
fn digest_is_that_of_the_file() {
    let scene = Scene::new();
    let image = scene.import(&Tar::new().file("a", b"1").finish()).unwrap();
    let output = Command::new("sha256sum")
        .arg(image.path())
        .output()
        .unwrap();
    let hex = String::from_utf8(output.stdout).unwrap();
    assert!(hex.starts_with(image.digest.hex()), "{hex}");
}

#[test]
fn later_entries_replace_files_and_merge_directories() {
    let scene = Scene::new();
    let mode = |header: &mut [u8; 512]| header[100..108].copy_from_slice(b"0000700\0");
    let archive = Tar::new()
        .file("f", b"old")
        .hardlink("g", "f")
        .symlink("l", "f")
        .directory("d")
        .file("d/kept", b"")
        .file("f", b"new!")
        .file("l", b"no longer a link")
        .add_with(b'5', b"d", b"", b"", mode);
    let path = scene.import(&archive.finish()).unwrap().path();
    assert_clean(&path);
    assert!(debugfs(&path, "cat /f").contains("new!"));
    assert!(debugfs(&path, "cat /g").contains("old"));
    assert!(debugfs(&path, "stat /l").contains("Type: regular"));
    assert!(debugfs(&path, "stat /d").contains("Mode:  0700"));
    assert!(debugfs(&path, "stat /d/kept").contains("Type: regular"));
}

#[test]
fn deep_and_wide_trees_are_built() {
    let scene = Scene::new();
    let mut archive = (0..3000).fold(Tar::new(), |tar, i| tar.file(&format!("wide/{i}"), b"x"));
    let deep = "d/".repeat(1000) + "file";
    archive = archive.pax(&[("path", deep.as_bytes())]).file("x", b"deep");
    assert_clean(&scene.import(&archive.finish()).unwrap().path());
}

#[test]
fn raw_ext4_is_copied_with_its_holes() {
    let scene = Scene::new();
    let disk = scene.path("disk.ext4");
    scene
        .store
        .overlay_disk(&disk, "256M".parse().unwrap())
        .unwrap();
    let image = scene
        .store
        .image_import(&disk, &"raw".parse().unwrap(), &NoProgress)
        .unwrap();
    assert_eq!(image.size, 256 << 20);
    assert!(image.disk_usage < 8 << 20, "{}", image.disk_usage);
    assert_eq!(fs::read(image.path()).unwrap(), fs::read(&disk).unwrap());
    let file = File::options().write(true).open(&disk).unwrap();
    file.set_len(255 << 20).unwrap();
    let error = scene
        .store
        .image_import(&disk, &"cut".parse().unwrap(), &NoProgress)
        .unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    scene.assert_no_scratch();
}

#[test]
fn i16_images_with_backing_files_are_refused_by_name() {
    let scene = Scene::new();
    let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
    qcow2.resize(4096, 0);
    scene.refuse(&qcow2, "a qcow2 image");
    let mut vmdk = b"KDMV".to_vec();
    vmdk.resize(4096, 0);
    scene.refuse(&vmdk, "a VMDK image");
    scene.refuse(
        b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n",
        "a VMDK descriptor",
    );
}

#[test]
fn i15_sources_that_are_not_regular_files_are_refused() {
    let scene = Scene::new();
    let tag = "test".parse().unwrap();
    let fifo = scene.path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for path in [fifo, "/dev/null".into(), scene.path("data")] {
        let error = scene
            .store
            .image_import(&path, &tag, &NoProgress)
            .unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
    let missing = scene.path("missing");
    assert!(
        scene
            .store
            .image_import(&missing, &tag, &NoProgress)
            .is_err()
    );
    scene.assert_no_scratch();
    scene.assert_no_images();
}

#[test]
fn i15_links_inside_an_archive_never_read_host_files() {
    let scene = Scene::new();
    fs::write(scene.path("secret"), b"host secret").unwrap();
    let target = scene.path("secret").display().to_string();
    let image = scene
        .import(&Tar::new().symlink("blob", &target).finish())
        .unwrap();
    let bytes = fs::read(image.path()).unwrap();
    assert!(!bytes.windows(11).any(|window| window == b"host secret"));
}

#[test]
fn i22_too_little_room_is_an_error_that_leaves_nothing() {
    let scene = Scene::with_limits(|limits| limits.reserve_bytes = u64::MAX / 2);
    let error = scene
        .import(&Tar::new().file("a", b"1").finish())
        .unwrap_err();
    assert!(matches!(error, ImagesError::NoSpace { .. }), "{error}");
    assert!(error.hint().unwrap().contains("image rm"));
    scene.assert_no_images();
}

/// Needs root: mounts a file system too small for the image in a mount namespace of its own.
#[test]
fn i22_full_disk_in_the_middle_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scene = Scene::new();
    let small = scene.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "none"])
        .arg(&small)
        .status()
        .unwrap();
    if !mounted.success() {
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let mut limits = banger_images::Limits::default();
        limits.reserve_bytes = 0;
        let store = banger_images::Store::open_with_limits(
            &small.join("data"),
            &small.join("cache"),
            limits,
        )
        .unwrap();
        let content: Vec<u8> = (0..6_u32 << 20).map(|i| (i % 251) as u8).collect();
        let input = scene.path("input");
        fs::write(&input, Tar::new().file("a", &content).finish()).unwrap();
        let error = store
            .image_import(&input, &"test".parse().unwrap(), &NoProgress)
            .unwrap_err();
        assert!(
            matches!(error, ImagesError::NoSpace { .. } | ImagesError::Io { .. }),
            "{error}"
        );
        assert_eq!(list(&small.join("data/tmp")), Vec::<String>::new());
        assert_eq!(list(&small.join("data/images")), Vec::<String>::new());
    });
    assert!(
        Command::new("umount")
            .arg(&small)
            .status()
            .unwrap()
            .success()
    );
    outcome.unwrap();
}

/// Cancels at the first report of a step.
struct CancelAt(&'static str, AtomicBool);

impl ProgressSink for CancelAt {
    fn report(&self, progress: Progress) {
        if progress.step == self.0 {
            self.1.store(true, Ordering::SeqCst);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

#[test]
fn cancelling_leaves_nothing() {
    let scene = Scene::new();
    let input = scene.path("input");
    fs::write(&input, Tar::new().file("a", &[1; 100_000]).finish()).unwrap();
    let sink = CancelAt("store image", AtomicBool::new(false));
    let error = scene
        .store
        .image_import(&input, &"test".parse().unwrap(), &sink)
        .unwrap_err();
    assert!(matches!(error, ImagesError::Cancelled { .. }), "{error}");
    scene.assert_no_scratch();
    scene.assert_no_images();
}

#[test]
fn tags_move_and_images_go_with_their_last_tag() {
    let scene = Scene::new();
    let first = scene.import(&Tar::new().file("a", b"1").finish()).unwrap();
    let second = scene.import(&Tar::new().file("a", b"2").finish()).unwrap();
    let images = scene.store.images().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[0].digest, second.digest);
    assert!(images[1].tags.is_empty() && images[1].digest == first.digest);
    let other = "other/name:2".parse().unwrap();
    scene.store.image_tag("test", &other).unwrap();
    scene.store.image_remove("test").unwrap();
    assert_eq!(
        scene.store.image("other/name:2").unwrap().digest,
        second.digest
    );
    assert_eq!(
        scene.store.image(&first.digest.hex()[..12]).unwrap().digest,
        first.digest
    );
    scene.store.image_remove(first.digest.as_str()).unwrap();
    scene.store.image_remove("other/name:2").unwrap();
    scene.assert_no_images();
    scene.assert_no_scratch();
    let error = scene.store.image_remove("other/name:2").unwrap_err();
    assert!(matches!(error, ImagesError::NotFound { .. }), "{error}");
}

#[test]
fn images_are_found_by_unambiguous_prefixes_only() {
    let scene = Scene::new();
    let image = scene.import(&Tar::new().file("a", b"1").finish()).unwrap();
    for name in [&image.digest.hex()[..4], image.digest.as_str(), "test"] {
        assert_eq!(scene.store.image(name).unwrap().digest, image.digest);
    }
    for name in ["", &image.digest.hex()[..3], "../x", "sha256:", "TEST"] {
        let error = scene.store.image(name).unwrap_err();
        assert!(
            matches!(error, ImagesError::NotFound { .. }),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn i23_base_image_is_unchanged_by_reading_and_refuses_writers() {
    let scene = Scene::new();
    let image = scene.import(&Tar::new().file("a", b"1").finish()).unwrap();
    let file = File::open(image.path()).unwrap();
    assert!(file.write_all_at(b"x", 0).is_err());
    assert_eq!(file.metadata().unwrap().mode() & 0o222, 0);
}

#[test]
fn everything_is_private_to_the_owner() {
    let scene = Scene::new();
    scene.import(&Tar::new().file("a", b"1").finish()).unwrap();
    scene
        .store
        .overlay_disk(&scene.path("disk"), "16M".parse().unwrap())
        .unwrap();
    let output = Command::new("find")
        .args([scene.path("data"), scene.path("cache")])
        .args(["-perm", "/077"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}
