//! What every lab is started from: a kernel, an initramfs and the emulated host's disk, made from
//! Debian packages by banger's own means and without root: the base image as `banger image build`
//! makes it, then one boot in emulation in which the host's own tools do the rest.

use super::firecracker;
use super::machine::{Flavour, Machine, Memory};
use super::place::{self, Key, copy_sparse, link};
use super::steps::step;
use anyhow::{Context, Result, bail};
use banger_images::{BuildOptions, CpioWriter, DebianSource, Image, Kernel, NoProgress, Store};
use banger_names::Tag;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SUITE: &str = "bookworm";
/// What the host's disk can hold; it takes what is in it.
const DISK_BYTES: u64 = 16 << 30;

/// What a lab is started from.
#[derive(Debug)]
pub(super) struct Base {
    /// Names all of it.
    pub(super) key: String,
    pub(super) vmlinux: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) disk: PathBuf,
    pub(super) keys: PathBuf,
    image: Image,
}

impl Base {
    /// Finds it in the cache, or makes what is missing of it.
    pub(super) fn find_or_make() -> Result<Self> {
        let _lock = place::lock(".build", None)?;
        let store = Store::open(
            &place::directory(&["store", "data"])?,
            &place::directory(&["store", "cache"])?,
        )?;
        let kernel = kernel(&store)?;
        let image = image(&store)?;
        let programs = match firecracker::cached()? {
            Some(programs) => programs,
            None => step("Firecracker and jailer", firecracker::fetch)?,
        };
        let keys = keys()?;
        let key = key(&kernel, &image, &keys)?;
        let dir = place::directory(&["cache"])?.join(format!("host-{key}"));
        if !dir.is_dir() {
            let made = place::scratch()?;
            initramfs(&store, &kernel, &image, &made.path().join("initrd"))?;
            let archive = made.path().join("push.img");
            step("archive for the host", || {
                archive_for_host(&kernel, &programs, &keys, &archive)
            })?;
            step("host's disk, in emulation", || {
                provision(made.path(), &kernel, &image)
            })?;
            let whole = made.path().join("host");
            fs::create_dir(&whole)?;
            for name in ["disk", "initrd"] {
                fs::rename(made.path().join(name), whole.join(name))?;
            }
            place::keep(&whole, "host", &key)?;
        }
        Ok(Self {
            key,
            vmlinux: kernel.vmlinux(),
            initrd: dir.join("initrd"),
            disk: dir.join("disk"),
            keys,
            image,
        })
    }

    /// Writes the initramfs of a guest that only says that it is there.
    pub(super) fn guest_initramfs(&self, to: &Path) -> Result<()> {
        let cpio = shell_archive(to, &busybox(&self.image)?, "guest-init")?;
        Ok(cpio.finish()?.flush()?)
    }
}

fn kernel(store: &Store) -> Result<Kernel> {
    let found = store.kernels()?;
    match found
        .into_iter()
        .find(|kernel| kernel.modules_dir().is_some())
    {
        Some(kernel) => Ok(kernel),
        None => step("Debian's kernel for virtual machines", || {
            let source = DebianSource::detect(None, SUITE)?;
            Ok(store.kernel_pull(&source, &NoProgress)?)
        }),
    }
}

fn image(store: &Store) -> Result<Image> {
    let packages = place::source_lines("packages")?;
    let mut key = Key::default();
    key.add(SUITE);
    for package in packages
        .iter()
        .map(String::as_str)
        .chain(banger_images::DEFAULT_PACKAGES)
    {
        key.add(package);
    }
    let tag = Tag::parse(&format!("lab:{}", key.finish()))?;
    if let Ok(image) = store.image(tag.as_str()) {
        return Ok(image);
    }
    let made = step("base image of Debian packages", || {
        let source = DebianSource::detect(None, SUITE)?;
        let options = BuildOptions { packages };
        Ok(store.image_build_debian(&tag, &source, &options, &NoProgress)?)
    })?;
    for old in store.images()? {
        for tag in old.tags.iter().filter(|old| !made.tags.contains(old)) {
            store.image_remove(tag.as_str())?;
        }
    }
    Ok(made)
}

/// The key that opens a lab, the key that a lab shows, and the file by which ssh knows it.
fn keys() -> Result<PathBuf> {
    let cached = place::directory(&["cache"])?.join("keys");
    if cached.is_dir() {
        return Ok(cached);
    }
    let work = place::scratch()?;
    let made = work.path().join("keys");
    fs::create_dir(&made)?;
    for name in ["user", "host"] {
        crate::must(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", name])
                .current_dir(&made),
        )?;
    }
    let public = fs::read_to_string(made.join("host.pub"))?;
    fs::write(made.join("known_hosts"), format!("lab {public}"))?;
    fs::rename(&made, &cached).with_context(|| format!("put {cached:?} into the cache"))?;
    Ok(cached)
}

/// Names everything that the host's disk and initramfs are made from.
fn key(kernel: &Kernel, image: &Image, keys: &Path) -> Result<String> {
    let mut key = Key::default();
    key.add("host 1");
    key.add(kernel.name.as_str());
    key.add(kernel.digest.as_str());
    key.add(image.digest.as_str());
    for name in ["host", "init", "masked-units", "modules", "provision"] {
        key.add_tree(&place::sources().join(name))?;
    }
    for (_, sha256) in firecracker::PROGRAMS {
        key.add(sha256);
    }
    key.add_tree(&keys.join("user.pub"))?;
    key.add_tree(&keys.join("host.pub"))?;
    key.add(DISK_BYTES.to_le_bytes());
    Ok(key.finish())
}

/// Writes the initramfs: a shell, drivers, and our first program. Not compressed: the emulated CPU
/// would take longer to unpack it than to read it.
fn initramfs(store: &Store, kernel: &Kernel, image: &Image, to: &Path) -> Result<()> {
    let wanted = place::source_lines("modules")?;
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let modules = store.modules(kernel, &wanted)?;
    let mut cpio = shell_archive(to, &busybox(image)?, "init")?;
    let mut order = String::new();
    for module in modules {
        let name = format!("{}.ko", module.name);
        cpio.file(&format!("modules/{name}"), 0o644, &module.content)?;
        order.push_str(&name);
        order.push('\n');
    }
    cpio.file("modules/order", 0o644, order.as_bytes())?;
    Ok(cpio.finish()?.flush()?)
}

/// An archive with a shell and a first program for it, which is one of the lab's data files.
fn shell_archive(to: &Path, busybox: &[u8], init: &str) -> Result<CpioWriter<BufWriter<File>>> {
    let file = File::create(to).with_context(|| format!("make {to:?}"))?;
    let mut cpio = CpioWriter::new(BufWriter::new(file));
    for name in ["dev", "proc", "sys", "root", "modules"] {
        cpio.directory(name, 0o755)?;
    }
    // The kernel opens it for the first process before anything is mounted.
    cpio.device("dev/console", 0o600, (5, 1))?;
    cpio.file("busybox", 0o755, busybox)?;
    let init = place::sources().join(init);
    let init = fs::read(&init).with_context(|| format!("read {init:?}"))?;
    cpio.file("init", 0o755, &init)?;
    Ok(cpio)
}

/// The static shell, out of the image: this machine needs none then.
fn busybox(image: &Image) -> Result<Vec<u8>> {
    let work = place::scratch()?;
    crate::must(
        Command::new("debugfs")
            .env("PATH", path_with_sbin())
            .args(["-R", "dump /usr/bin/busybox busybox"])
            .arg(image.path())
            .current_dir(work.path())
            .stderr(File::create(work.path().join("log"))?),
    )?;
    let bytes = fs::read(work.path().join("busybox"))?;
    if !bytes.starts_with(b"\x7fELF") {
        bail!("the base image has no busybox");
    }
    Ok(bytes)
}

/// Debian keeps its file system tools where an ordinary user's PATH does not look.
fn path_with_sbin() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Packs what goes over the base image: the lab's tree, kernel modules, programs, keys, and the
/// script that does the rest in there.
fn archive_for_host(kernel: &Kernel, programs: &Path, keys: &Path, to: &Path) -> Result<()> {
    let work = place::scratch()?;
    let ours = work.path().join("lab-provision");
    let local = work.path().join("usr/local/bin");
    fs::create_dir_all(&local)?;
    fs::create_dir(&ours)?;
    let sources = place::sources();
    for (from, to) in [
        (sources.join("provision"), ours.join("run")),
        (sources.join("masked-units"), ours.join("masked-units")),
        (keys.join("user.pub"), ours.join("authorized_keys")),
        (keys.join("host"), ours.join("ssh_host_ed25519_key")),
        (programs.join("firecracker"), local.join("firecracker")),
        (programs.join("jailer"), local.join("jailer")),
    ] {
        fs::copy(&from, &to).with_context(|| format!("copy {from:?}"))?;
    }
    let modules = kernel.modules_dir().context("the kernel has no modules")?;
    let above = modules.parent().context("modules without a directory")?;
    let rename = format!("--transform=s,^modules,usr/lib/modules/{},", kernel.version);
    crate::must(
        Command::new("tar")
            .args(["--create", "--owner=0", "--group=0", "--mode=u+rwX,go=rX"])
            .arg("--file")
            .arg(to)
            .arg(rename)
            .arg("--directory")
            .arg(sources.join("host"))
            .arg(".")
            .arg("--directory")
            .arg(work.path())
            .arg(".")
            .arg("--directory")
            .arg(above)
            .arg("modules"),
    )
}

/// Boots a copy of the base image once, in emulation, to unpack the archive over it and run the
/// script. The directory has `initrd` and the archive as `push.img`, and gets `disk`.
fn provision(dir: &Path, kernel: &Kernel, image: &Image) -> Result<()> {
    let disk = dir.join("disk");
    copy_sparse(&image.path(), &disk)?;
    // The store's images cannot be written, and neither can copies of them.
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o600))?;
    File::options()
        .write(true)
        .open(&disk)
        .and_then(|file| file.set_len(DISK_BYTES))
        .with_context(|| format!("enlarge {disk:?}"))?;
    link(&kernel.vmlinux(), &dir.join("vmlinux"))?;
    let machine = Machine {
        flavour: Flavour::Fast,
        memory_mib: 1024,
        huge_pages: 0,
        online: false,
        memory: Memory::Anonymous,
        keeps_disk: true,
        incoming: false,
        word: "lab.provision",
        life: Duration::from_secs(600),
    };
    let started = machine.start(dir, |_| Ok(()))?;
    let limit = machine.life;
    super::machine::wait_for_line(dir, started.qemu(), "lab: provisioned", limit)?;
    if !started.qemu().ends_within(Duration::from_secs(60))? {
        bail!("the host does not end after it was provisioned");
    }
    Ok(())
}
