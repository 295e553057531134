//! crun and runc, as root, with the image's tree as a read-only root.

use super::timed::{must, took};
use super::{Containers, base};
use crate::bench::report::millis;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub(super) fn measure(runs: usize) -> Result<Containers> {
    let base = base()?;
    let bundle = base.join("bundle");
    fs::create_dir_all(&bundle)?;
    bundle_for(&bundle, &base.join("rootfs"))?;
    let mut containers = Containers {
        crun_ms: Vec::new(),
        runc_ms: Vec::new(),
    };
    for turn in 0..=runs {
        for (runtime, figures) in [
            ("crun", &mut containers.crun_ms),
            ("runc", &mut containers.runc_ms),
        ] {
            let id = format!("bench-{turn}");
            let mut command = Command::new(runtime);
            command
                .args(["run", "--bundle"])
                .arg(&bundle)
                .arg(id)
                .stdin(Stdio::null());
            let took = took(&mut command)?;
            if turn > 0 {
                figures.push(millis(took));
            }
        }
    }
    Ok(containers)
}

/// runc's own example of a bundle (namespaces of its own for all but users and cgroups), with
/// `true` for a shell at a terminal.
fn bundle_for(bundle: &Path, rootfs: &Path) -> Result<()> {
    must(Command::new("runc").args(["spec", "--bundle"]).arg(bundle))?;
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?).context("read the bundle")?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/true"]);
    config["root"] = json!({"path": rootfs, "readonly": true});
    fs::write(&path, config.to_string()).with_context(|| format!("write {path:?}"))
}
