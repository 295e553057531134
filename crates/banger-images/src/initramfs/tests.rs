//! Tests of `initramfs`.

use super::*;
use crate::Limits;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// The entries of a newc archive, or of several in a row: name, mode, content.
fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        if bytes[0] == 0 {
            bytes = &bytes[4..];
            continue;
        }
        let field = |index: usize| {
            let text = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        assert_eq!(&bytes[..6], b"070701");
        let (mode, size, name_size) = (field(1), field(6), field(11));
        let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
        let content = (110 + name_size).next_multiple_of(4);
        let end = (content + size).next_multiple_of(4);
        if name != "TRAILER!!!" {
            let mode = u32::try_from(mode).unwrap();
            found.push((name, mode, bytes[content..content + size].to_vec()));
        }
        bytes = &bytes[end..];
    }
    found
}

struct Scene {
    dir: tempfile::TempDir,
    store: Store,
    kernel: Kernel,
    agent: PathBuf,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store =
        Store::open_with_limits(&data, &dir.path().join("cache"), Limits::default()).unwrap();
    let modules = dir.path().join("6.1.0");
    fs::create_dir_all(modules.join("kernel")).unwrap();
    for (name, text) in [
        ("kernel/virtio.ko", "virtio"),
        ("kernel/virtio_blk.ko", "blk"),
        ("kernel/unwanted.ko", "unwanted"),
        ("modules.builtin", "kernel/fs/ext4.ko\n"),
        (
            "modules.dep",
            "kernel/virtio_blk.ko: kernel/virtio.ko\nkernel/virtio.ko:\n",
        ),
    ] {
        fs::write(modules.join(name), text).unwrap();
    }
    let vmlinux = dir.path().join("vmlinux");
    fs::write(&vmlinux, crate::elf::tests::good_elf()).unwrap();
    let name = "test".parse().unwrap();
    let kernel = store
        .kernel_import(&vmlinux, Some(&modules), &name, &NoProgress)
        .unwrap();
    let agent = dir.path().join("agent");
    fs::write(&agent, b"\x7fELF agent").unwrap();
    Scene {
        dir,
        store,
        kernel,
        agent,
    }
}

#[test]
fn initramfs_holds_agent_and_modules_in_order() {
    let scene = scene();
    let path = scene
        .store
        .initramfs(&scene.agent, &scene.kernel, &["virtio-blk", "ext4"])
        .unwrap();
    let found = entries(&fs::read(&path).unwrap());
    let names: Vec<&str> = found.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "dev",
            "proc",
            "sys",
            "run",
            "newroot",
            "banger",
            "modules",
            "dev/console",
            "modules/virtio.ko",
            "modules/virtio_blk.ko",
            "modules/order",
            "init"
        ]
    );
    let entry = |name: &str| found.iter().find(|(found, _, _)| found == name).unwrap();
    assert_eq!(entry("modules/order").2, b"virtio.ko\nvirtio_blk.ko\n");
    assert_eq!(
        (entry("init").1, &entry("init").2[..]),
        (0o100_755, &b"\x7fELF agent"[..])
    );
    assert_eq!(entry("dev/console").1, 0o020_600);
    assert_eq!(entry("modules/virtio_blk.ko").2, b"blk");
}

#[test]
fn initramfs_is_made_once_for_each_content() {
    let scene = scene();
    let make = |modules: &[&str]| {
        scene
            .store
            .initramfs(&scene.agent, &scene.kernel, modules)
            .unwrap()
    };
    let one = make(&["virtio"]);
    assert_eq!(make(&["virtio"]), one);
    assert_ne!(make(&["virtio_blk"]), one);
    fs::write(&scene.agent, b"\x7fELF other agent").unwrap();
    assert_ne!(make(&["virtio"]), one);
}

#[test]
fn initramfs_names_missing_modules_and_refuses_scripts() {
    let scene = scene();
    let error = scene
        .store
        .initramfs(&scene.agent, &scene.kernel, &["virtio", "no_such"])
        .unwrap_err();
    assert!(error.to_string().contains("no_such"), "{error}");
    fs::write(&scene.agent, b"#!/bin/sh").unwrap();
    let error = scene
        .store
        .initramfs(&scene.agent, &scene.kernel, &["virtio"])
        .unwrap_err();
    assert!(error.to_string().contains("ELF"), "{error}");
}

#[test]
fn boot_configuration_stands_behind_the_shared_archive() {
    let scene = scene();
    let base = scene
        .store
        .initramfs(&scene.agent, &scene.kernel, &["virtio"])
        .unwrap();
    let out = scene.dir.path().join("boot.cpio");
    boot_initramfs(&base, b"{\"a\":1}", &out).unwrap();
    let mode = fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let found = entries(&fs::read(&out).unwrap());
    let last = found.last().unwrap();
    assert_eq!((last.0.as_str(), last.1), ("banger/boot.json", 0o100_600));
    assert_eq!(last.2, b"{\"a\":1}");
    assert_eq!(found.len(), entries(&fs::read(&base).unwrap()).len() + 1);
    assert!(
        boot_initramfs(&base, b"{}", &out).is_err(),
        "written over an existing file"
    );
    assert!(boot_initramfs(&base, &vec![0; BOOT_MAX + 1], &scene.dir.path().join("x")).is_err());
}

#[test]
fn other_programs_read_the_archive() {
    let Ok(busybox) = crate::child::find_tool("busybox", "busybox-static") else {
        return;
    };
    let scene = scene();
    let path = scene
        .store
        .initramfs(&scene.agent, &scene.kernel, &["virtio_blk"])
        .unwrap();
    let output = Command::new(busybox)
        .args(["cpio", "-t"])
        .stdin(File::open(path).unwrap())
        .output()
        .unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && names.lines().any(|name| name == "modules/order"),
        "{names}"
    );
}

/// A stored kernel without modules; `builtin` is its list of what is built in.
fn kernel_without_modules(scene: &Scene, builtin: Option<&str>) -> Kernel {
    let scratch = scene.store.scratch().unwrap();
    let draft = crate::kernel_draft::Draft::create(scratch, "6.1-lean".into()).unwrap();
    fs::write(draft.path("vmlinux"), crate::elf::tests::good_elf()).unwrap();
    if let Some(builtin) = builtin {
        fs::create_dir(draft.path("modules")).unwrap();
        fs::write(draft.path("modules/modules.builtin"), builtin).unwrap();
    }
    let name = "lean".parse().unwrap();
    draft
        .commit(&scene.store, name, String::new(), &NoProgress)
        .unwrap()
}

#[test]
fn modules_that_are_built_in_are_not_looked_for() {
    let scene = scene();
    let list = "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/hw_random/virtio-rng.ko\n";
    let kernel = kernel_without_modules(&scene, Some(list));
    assert_eq!(kernel.modules_dir(), None);
    let wanted = ["ext4", "virtio_rng"];
    assert!(scene.store.modules(&kernel, &wanted).unwrap().is_empty());
    let path = scene.store.initramfs(&scene.agent, &kernel, &wanted);
    let names: Vec<String> = entries(&fs::read(path.unwrap()).unwrap())
        .into_iter()
        .map(|(name, _, _)| name)
        .collect();
    assert!(!names.iter().any(|name| name.ends_with(".ko")), "{names:?}");
}

#[test]
fn initramfs_refuses_a_module_that_is_neither_there_nor_built_in() {
    let scene = scene();
    let kernel = kernel_without_modules(&scene, Some("kernel/fs/ext4/ext4.ko\n"));
    let error = scene
        .store
        .initramfs(&scene.agent, &kernel, &["ext4", "virtio_blk"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("virtio_blk"), "{error}");
    assert!(error.contains("nor is it built in"), "{error}");
}

#[test]
fn a_kernel_of_which_nothing_is_known_is_taken_at_its_word() {
    let scene = scene();
    let kernel = kernel_without_modules(&scene, None);
    let modules = scene.store.modules(&kernel, &["virtio_blk"]).unwrap();
    assert!(modules.is_empty());
}
