//! Debian's archive: what apt must refuse, and, for those who ask for it, the real thing.

use crate::archive::{Scene, assert_clean, debugfs};
use banger_images::{
    BuildOptions, DebianSource, ImagesError, KernelBuildOptions, NoProgress, Progress, ProgressSink,
};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

fn has_apt() -> bool {
    ["/usr/bin/apt-get", "/usr/bin/gpgv", KEYRING]
        .iter()
        .all(|path| Path::new(path).exists())
}

/// A local repository with one (empty) package list, whose release file is `release`.
fn repository(root: &Path, file: &str, release: &str) {
    let packages = root.join("dists/bookworm/main/binary-amd64");
    fs::create_dir_all(&packages).unwrap();
    fs::write(packages.join("Packages"), b"").unwrap();
    fs::write(root.join("dists/bookworm").join(file), release).unwrap();
}

fn release() -> String {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    format!(
        "Origin: Debian\nSuite: oldstable\nCodename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n\
         Architectures: amd64\nComponents: main\nSHA256:\n {empty} 0 main/binary-amd64/Packages\n"
    )
}

/// Pulls from a local repository that must not be trusted.
fn pull_refused(file: &str, release: &str) {
    if !has_apt() {
        return;
    }
    let scene = Scene::new();
    let root = scene.path("repository");
    repository(&root, file, release);
    let mirror = format!("file:{}", root.display());
    let source = DebianSource::detect(Some(&mirror), "bookworm").unwrap();
    let error = scene.store.kernel_pull(&source, &NoProgress).unwrap_err();
    assert!(matches!(error, ImagesError::Verification { .. }), "{error}");
    assert!(scene.store.kernels().unwrap().is_empty());
    scene.assert_no_scratch();
}

#[test]
fn pull_tells_a_mirror_without_the_release_from_one_that_is_not_to_be_trusted() {
    if !has_apt() {
        return;
    }
    let scene = Scene::new();
    let root = scene.path("repository");
    fs::create_dir_all(&root).unwrap();
    let mirror = format!("file:{}", root.display());
    let source = DebianSource::detect(Some(&mirror), "bookworm").unwrap();
    let error = scene.store.kernel_pull(&source, &NoProgress).unwrap_err();
    assert!(matches!(error, ImagesError::NoSource { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--mirror"), "{error}");
    assert!(scene.store.kernels().unwrap().is_empty());
    scene.assert_no_scratch();
}

#[test]
fn pull_refuses_an_unsigned_repository() {
    pull_refused("Release", &release());
}

#[test]
fn pull_refuses_a_repository_with_a_made_up_signature() {
    let release = release();
    pull_refused(
        "InRelease",
        &format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{release}-----BEGIN PGP SIGNATURE-----\n\n\
             iHUEARYIAB0WIQ==\n=AAAA\n-----END PGP SIGNATURE-----\n"
        ),
    );
}

#[test]
fn pull_refuses_a_release_signed_by_a_key_that_is_not_the_archives() {
    if !Path::new("/usr/bin/gpg").exists() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let gpg = |args: &[&str]| {
        let output = Command::new("gpg")
            .args(["--batch", "--quiet", "--passphrase", "", "--homedir"])
            .arg(home.path())
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    gpg(&[
        "--quick-generate-key",
        "mallory@example.org",
        "ed25519",
        "sign",
        "never",
    ]);
    let file = home.path().join("Release");
    fs::write(&file, release()).unwrap();
    let signed = gpg(&["--clearsign", "--output", "-", file.to_str().unwrap()]);
    Command::new("gpgconf")
        .arg("--homedir")
        .arg(home.path())
        .args(["--kill", "gpg-agent"])
        .status()
        .unwrap();
    pull_refused("InRelease", &String::from_utf8(signed).unwrap());
}

#[test]
fn pull_leaves_the_hosts_apt_state_alone() {
    if !has_apt() {
        return;
    }
    let state = || {
        let list = |path: &str| {
            let output = Command::new("ls")
                .args(["-laR", "--time-style=full-iso", path])
                .output();
            output.unwrap().stdout
        };
        (list("/var/lib/apt/lists"), list("/var/cache/apt"))
    };
    let before = state();
    pull_refused("Release", &release());
    assert!(state() == before, "the host's lists or cache changed");
}

/// Fetches Debian's real kernel: a minute at worst, 27 MB.
#[test]
#[ignore = "needs the network: 36 MB from the host's Debian mirror"]
fn net_kernel_pull_gives_a_kernel_with_its_modules() {
    let scene = Scene::new();
    let source = DebianSource::detect(None, "bookworm").unwrap();
    let kernel = scene.store.kernel_pull(&source, &NoProgress).unwrap();
    assert!(
        kernel.is_default && kernel.version.ends_with("-cloud-amd64"),
        "{kernel:?}"
    );
    assert!(fs::metadata(kernel.vmlinux()).unwrap().len() > 20 << 20);
    assert!(kernel.vmlinuz().is_some());
    let again = scene.store.kernel_pull(&source, &NoProgress).unwrap();
    assert_eq!(again.digest, kernel.digest);
    assert_eq!(scene.store.kernels().unwrap().len(), 1);
    let agent = scene.path("agent");
    fs::write(&agent, b"\x7fELF agent").unwrap();
    let modules = [
        "virtio_pci",
        "virtio_blk",
        "virtio_net",
        "virtio_console",
        "overlay",
        "ext4",
    ];
    let initramfs = scene.store.initramfs(&agent, &kernel, &modules).unwrap();
    let output = Command::new("grep")
        .args(["-c", "-a", "modules/virtio_ring.ko"])
        .arg(initramfs)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"1\n");
    scene.assert_no_scratch();
}

/// Builds Debian's image twice: a minute or two, 70 MB each time.
#[test]
#[ignore = "slow, and needs the network: builds the Debian image twice"]
fn slow_debian_builds_are_identical_and_hold_no_secrets() {
    let source = DebianSource::detect(None, "bookworm").unwrap();
    let tag = "debian".parse().unwrap();
    let build = |scene: &Scene| {
        scene
            .store
            .image_build_debian(&tag, &source, &BuildOptions::default(), &NoProgress)
            .unwrap()
    };
    let (one, two) = (Scene::new(), Scene::new());
    let image = build(&one);
    assert_eq!(image.digest, build(&two).digest);
    one.assert_no_scratch();
    let path = image.path();
    assert_clean(&path);
    assert!(!debugfs(&path, "ls /etc/ssh").contains("ssh_host_"));
    assert!(debugfs(&path, "stat /etc/machine-id").contains("Size: 0"));
    for gone in [
        "/etc/resolv.conf",
        "/etc/hostname",
        "/var/lib/dbus/machine-id",
    ] {
        assert!(
            !debugfs(&path, &format!("stat {gone}")).contains("Inode:"),
            "{gone}"
        );
    }
    assert!(debugfs(&path, "stat /usr/sbin/sshd").contains("Type: regular"));
    assert!(debugfs(&path, "stat /usr/bin/sudo").contains("Mode:  04755"));
}

/// Cancels once the compiler runs.
struct CancelAtCompiler(AtomicBool);

impl ProgressSink for CancelAtCompiler {
    fn report(&self, progress: Progress) {
        if progress.step == "build kernel" && progress.detail.contains("files, ") {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Configures the lean kernel of two releases and ends the build in the middle of its
/// compilation: a minute or two and 140 MB each.
#[test]
#[ignore = "slow, and needs the network: unpacks two kernel sources"]
fn slow_kernel_build_that_is_cancelled_leaves_nothing() {
    for suite in ["bookworm", "trixie"] {
        let scene = Scene::new();
        let source = DebianSource::detect(None, suite).unwrap();
        let sink = CancelAtCompiler(AtomicBool::new(false));
        let options = KernelBuildOptions::default();
        let built = scene.store.kernel_build(&source, &options, &sink);
        let error = built.unwrap_err();
        assert!(matches!(error, ImagesError::Cancelled { .. }), "{error}");
        assert!(scene.store.kernels().unwrap().is_empty());
        scene.assert_no_scratch();
    }
}

/// Builds the lean kernel twice: a quarter of an hour or more each time.
#[test]
#[ignore = "slow, and needs the network: builds a kernel twice"]
fn slow_kernel_builds_are_identical_and_have_built_in_what_guests_need() {
    let source = DebianSource::detect(None, "bookworm").unwrap();
    let build = |scene: &Scene, name: Option<&str>| {
        let options = KernelBuildOptions {
            name: name.map(|name| name.parse().unwrap()),
            jobs: None,
        };
        let built = scene.store.kernel_build(&source, &options, &NoProgress);
        scene.assert_no_scratch();
        built.unwrap()
    };
    let (one, two) = (Scene::new(), Scene::new());
    let kernel = build(&one, None);
    assert!(kernel.name.as_str().starts_with("lean-6.1."), "{kernel:?}");
    assert!(kernel.version.ends_with("-lean"), "{kernel:?}");
    assert!(kernel.modules_dir().is_none());
    let needed = [
        "virtio_pci",
        "virtio_mmio",
        "virtio_blk",
        "virtio_net",
        "virtio_console",
        "virtio_rng",
        "vmw_vsock_virtio_transport",
        "overlay",
        "ext4",
        "erofs",
        "nf_tables",
        "bridge",
        "veth",
    ];
    assert!(one.store.modules(&kernel, &needed).unwrap().is_empty());
    let error = one.store.modules(&kernel, &["usb_storage"]).unwrap_err();
    assert!(error.to_string().contains("usb_storage"), "{error}");
    let again = build(&two, Some("again"));
    assert_eq!(again.digest, kernel.digest);
    assert_eq!(again.name.as_str(), "again");
}
