//! `cargo xtask lab check`: does the lab do what it is for? A guest is booted by the bare Firecracker
//! in a lab of its own, to a shell as its first program, and each step is timed.

use super::base::Base;
use super::steps::step;
use super::{Lab, Options, place};
use anyhow::{Result, bail};
use serde_json::json;
use std::fs;
use std::time::Duration;

/// What the guest says from user space.
const SAID: &str = "guest: in user space";
/// How often it is booted; the first time its files are not in the host's memory yet.
const TURNS: usize = 3;

/// Starts the lab, boots the guest, takes the lab down.
pub(super) fn run(options: &Options) -> Result<()> {
    let lab = step("lab up", || Lab::up(options))?;
    let base = Base::find_or_make()?;
    let work = place::scratch()?;
    base.guest_initramfs(&work.path().join("guest.initrd"))?;
    fs::copy(&base.vmlinux, work.path().join("vmlinux"))?;
    for (name, pages) in [("small-pages", "None"), ("huge-pages", "2M")] {
        let machine = json!({
            "boot-source": {
                "kernel_image_path": "/srv/check/vmlinux",
                "initrd_path": "/srv/check/guest.initrd",
                "boot_args": "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux \
                              i8042.dumbkbd cryptomgr.notests",
            },
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "huge_pages": pages},
            "drives": [],
        });
        fs::write(work.path().join(name), machine.to_string())?;
    }
    let files = ["guest.initrd", "vmlinux", "small-pages", "huge-pages"];
    let files: Vec<_> = files.iter().map(|name| work.path().join(name)).collect();
    step("push kernel and initramfs", || {
        lab.push(&files, "/srv/check")
    })?;
    for pages in ["small-pages", "huge-pages"] {
        for _ in 0..TURNS {
            let took = step(&format!("guest in Firecracker, {pages}"), || {
                boot(&lab, pages)
            })?;
            eprintln!("lab:            in the host's own time: {took} s");
        }
    }
    step("lab down", || lab.down())
}

/// Boots once; what the host's clock says it took, from start to end of Firecracker.
fn boot(lab: &Lab, config: &str) -> Result<String> {
    let script = format!(
        "TIMEFORMAT=%R; cd /srv/check && : >log && time firecracker --no-api --log-path log \
         --config-file {config}"
    );
    let output = lab.run(&["bash", "-c", &script], Duration::from_secs(300))?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !stdout.contains(SAID) {
        bail!(
            "the guest did not reach user space (exit code {}):\n{stdout}\n{stderr}",
            output.code
        );
    }
    Ok(stderr.lines().last().unwrap_or_default().to_owned())
}
