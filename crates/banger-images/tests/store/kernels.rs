//! Importing, naming and removing kernels.

use crate::archive::Scene;
use banger_images::{ImagesError, NoProgress};
use banger_names::KernelName;
use std::fs::{self, File};
use std::time::{Duration, Instant};

/// A small ELF executable of one segment, which differs by `mark`.
fn elf(mark: u8) -> Vec<u8> {
    let mut file = vec![0_u8; 4096];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (file[16], file[18], file[32], file[54], file[56]) = (2, 62, 64, 56, 1);
    file[64] = 1;
    file[64 + 33] = 16;
    file[64 + 41] = 16;
    file[4000] = mark;
    file
}

fn name(text: &str) -> KernelName {
    text.parse().unwrap()
}

fn import(scene: &Scene, mark: u8, text: &str) -> banger_images::Kernel {
    let file = scene.path("vmlinux");
    fs::write(&file, elf(mark)).unwrap();
    scene
        .store
        .kernel_import(&file, None, &name(text), &NoProgress)
        .unwrap()
}

#[test]
fn kernels_are_kept_by_content_and_called_by_name() {
    let scene = Scene::new();
    let one = import(&scene, 1, "one");
    let two = import(&scene, 2, "two");
    assert!(one.is_default && !two.is_default);
    assert_eq!(scene.store.kernel("one").unwrap(), one);
    assert_eq!(scene.store.kernel(&two.digest.hex()[..8]).unwrap(), two);
    assert_eq!(fs::read(one.vmlinux()).unwrap(), elf(1));
    assert_eq!((one.vmlinuz(), one.modules_dir()), (None, None));
    scene.store.set_kernel_default(&name("two")).unwrap();
    assert_eq!(scene.store.kernel_default().unwrap(), Some(name("two")));
    scene.store.kernel_remove(&name("two")).unwrap();
    assert_eq!(scene.store.kernel_default().unwrap(), None);
    assert!(!two.vmlinux().exists());
    assert_eq!(scene.store.kernels().unwrap().len(), 1);
    for missing in ["two", "", "../one", "ff"] {
        let error = scene.store.kernel(missing).unwrap_err();
        assert!(
            matches!(error, ImagesError::NotFound { .. }),
            "{missing:?}: {error}"
        );
    }
    scene.assert_no_scratch();
}

#[test]
fn a_name_given_to_another_kernel_leaves_the_old_one_there() {
    let scene = Scene::new();
    let old = import(&scene, 1, "kernel");
    let new = import(&scene, 2, "kernel");
    assert_ne!(old.digest, new.digest);
    assert_eq!(scene.store.kernel("kernel").unwrap().digest, new.digest);
    let kept = scene.store.kernel(old.digest.as_str()).unwrap();
    assert!(kept.name.as_str().starts_with("kernel."), "{}", kept.name);
    assert!(kept.vmlinux().exists());
}

#[test]
fn one_content_under_two_names_goes_with_the_last() {
    let scene = Scene::new();
    let one = import(&scene, 1, "one");
    import(&scene, 1, "two");
    scene.store.kernel_remove(&name("one")).unwrap();
    assert!(one.vmlinux().exists());
    scene.store.kernel_remove(&name("two")).unwrap();
    assert!(!one.vmlinux().exists());
}

#[test]
fn kernel_import_takes_modules_and_nothing_else() {
    let scene = Scene::new();
    let modules = scene.path("6.1.0-test");
    fs::create_dir_all(modules.join("kernel/net")).unwrap();
    fs::write(modules.join("kernel/net/a.ko"), b"module").unwrap();
    fs::write(modules.join("modules.builtin"), b"").unwrap();
    fs::write(modules.join("secret.txt"), b"no module").unwrap();
    fs::write(scene.path("outside.ko"), b"outside").unwrap();
    std::os::unix::fs::symlink(scene.path("outside.ko"), modules.join("link.ko")).unwrap();
    let file = scene.path("vmlinux");
    fs::write(&file, elf(1)).unwrap();
    let kernel = scene
        .store
        .kernel_import(&file, Some(&modules), &name("k"), &NoProgress)
        .unwrap();
    assert_eq!(kernel.version, "6.1.0-test");
    let stored = kernel.modules_dir().unwrap();
    assert_eq!(fs::read(stored.join("kernel/net/a.ko")).unwrap(), b"module");
    assert!(!stored.join("secret.txt").exists() && !stored.join("link.ko").exists());
    fs::create_dir(scene.path("empty")).unwrap();
    let error = scene
        .store
        .kernel_import(&file, Some(&scene.path("empty")), &name("e"), &NoProgress)
        .unwrap_err();
    assert!(error.to_string().contains("no kernel modules"), "{error}");
    scene.assert_no_scratch();
}

#[test]
fn i18_kernel_import_refuses_what_is_no_kernel_within_two_seconds() {
    let scene = Scene::new();
    let file = scene.path("file");
    let refused = |reason: &str| {
        let start = Instant::now();
        let error = scene
            .store
            .kernel_import(&file, None, &name("bad"), &NoProgress)
            .unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(scene.store.kernels().unwrap().is_empty());
        scene.assert_no_scratch();
    };
    fs::write(&file, b"").unwrap();
    refused("empty");
    fs::write(&file, "text, not a kernel\n".repeat(1000)).unwrap();
    refused("neither");
    let mut overlapping = elf(1);
    overlapping[56] = 2;
    overlapping.copy_within(64..120, 120);
    fs::write(&file, overlapping).unwrap();
    refused("overlap");
    File::create(&file).unwrap().set_len(4 << 30).unwrap();
    refused("more than");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused("not a regular file");
}

#[test]
fn open_removes_kernels_that_a_crash_left_unnamed() {
    let scene = Scene::new();
    let kernel = import(&scene, 1, "one");
    fs::remove_file(scene.path("data/index.json")).unwrap();
    drop(banger_images::Store::open(&scene.path("data"), &scene.path("cache")).unwrap());
    assert!(!kernel.vmlinux().exists());
    scene.assert_no_scratch();
}
