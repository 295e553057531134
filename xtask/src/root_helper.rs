//! The root helper's own tests, which want a host with all that it works on: part of `cargo xtask
//! smoke`, and at length `cargo xtask chaos`.

use crate::lab::Lab;
use crate::smoke::{self, Said};
use crate::{built, top};
use anyhow::{Context, Result};
use banger_guest::boot::{BootConfig, Channel, Init, Root};
use banger_images::{Store, boot_initramfs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long the long ones may take: they take about twenty minutes on a quiet machine.
const LIMIT: Duration = Duration::from_secs(100 * 60);
/// Modules that a guest of these tests wants, beside those that they want.
const MODULES: [&str; 4] = [
    "virtio_mmio",
    "virtio_blk",
    "vsock",
    "vmw_vsock_virtio_transport",
];
/// A small file system, but with room for what the tests write behind its beginning.
const ROOTFS: &str = "16M";

/// What the tests are run from: two programs, the helper itself, and what their guests boot.
pub(crate) struct Tests {
    net: PathBuf,
    vmm: PathBuf,
    boot: TempDir,
}

impl Tests {
    /// Builds them. `dist` has the programs, `store` a kernel.
    pub(crate) fn build(dist: &Path, store: &Path) -> Result<Self> {
        let [net, vmm] = built("bangerd-root", ["net", "vmm"])?;
        Ok(Self {
            net,
            vmm,
            boot: boot(dist, store)?,
        })
    }

    /// What has to be brought into the lab; the helper itself comes with the programs.
    pub(crate) fn files(&self) -> [&Path; 3] {
        [&self.net, &self.vmm, self.boot.path()]
    }

    /// Runs those that take little, or those that `filter` names; exit codes.
    pub(crate) fn tell(&self, lab: &Lab, filter: &[&str]) -> Result<[i32; 2]> {
        let long: &[&str] = match filter {
            [] => &["--skip", "chaos::", "--skip", "net_c1_"],
            _ => &[],
        };
        let arguments = [long, filter].concat();
        let vmm = self.run(
            lab,
            &self.vmm,
            &[&["--ignored"], &*arguments].concat(),
            "few",
        )?;
        let net = self.run(lab, &self.net, &arguments, "few")?;
        // VMs' slice stays loaded without them.
        smoke::run_in(lab, &["systemctl", "stop", "banger.slice"], LIMIT)?;
        Ok([vmm.code, net.code])
    }

    /// Every verb with the helper killed, and with the kernel refusing, at many of its system calls.
    pub(crate) fn tell_long(&self, lab: &Lab) -> Result<[Said; 2]> {
        let long = ["--nocapture", "--ignored", "chaos::"];
        let vmm = self.run(lab, &self.vmm, &long, "some")?;
        let net = self.run(lab, &self.net, &["--nocapture", "faults::"], "some")?;
        smoke::run_in(lab, &["systemctl", "stop", "banger.slice"], LIMIT)?;
        Ok([vmm, net])
    }

    fn run(&self, lab: &Lab, test: &Path, arguments: &[&str], faults: &str) -> Result<Said> {
        let helper = format!("{}/dist/bangerd-root", smoke::HOME);
        let test = smoke::in_lab(test)?;
        let boot = format!("BANGER_TEST_BOOT={}", smoke::in_lab(self.boot.path())?);
        let (net, vmm) = (
            format!("BANGERD_ROOT={helper}"),
            format!("BANGER_TEST_HELPER={helper}"),
        );
        let mut argv = vec!["env", "RUST_BACKTRACE=0", "BANGER_LAB=1", &net, &vmm, &boot];
        let points = smoke::chaos_points();
        argv.extend(points.as_deref());
        let faults = format!("BANGER_FAULTS={faults}");
        argv.extend([faults.as_str(), test.as_str(), "--test-threads=1"]);
        argv.extend(arguments);
        smoke::run_in(lab, &argv, LIMIT)
    }
}

/// What the tests' guests boot: a kernel, an initramfs that says it is there, a small root.
fn boot(dist: &Path, store: &Path) -> Result<TempDir> {
    let made = tempfile::Builder::new()
        .prefix("boot-")
        .tempdir_in(top().join("target"))?;
    let path = |name: &str| made.path().join(name);
    let store = Store::open(&store.join("data"), &store.join("cache"))?;
    let kernels = store.kernels()?;
    let kernel = kernels
        .iter()
        .find(|kernel| kernel.modules_dir().is_some())
        .context("the store has no kernel")?;
    fs::copy(kernel.vmlinux(), path("vmlinux")).context("copy the kernel")?;
    let config = BootConfig {
        channel: Channel::Vsock { port: 5000 },
        root: Root::Disk {
            device: "/dev/vda".to_owned(),
        },
        init: Init::Agent,
        hostname: "tested".to_owned(),
        network: None,
        seed: "00".repeat(32),
        clock_unix_ms: 1_795_000_000_000,
    };
    let base = store.initramfs(&dist.join("banger-agent"), kernel, &MODULES)?;
    boot_initramfs(&base, &serde_json::to_vec(&config)?, &path("initrd"))?;
    let root = path("root");
    for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    crate::must(
        Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .arg(&root)
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(path("rootfs.ext4"))
            .arg(ROOTFS),
    )?;
    fs::remove_dir_all(root)?;
    Ok(made)
}
