//! `cargo xtask build`: the programs, side by side in `target/dist`.

use crate::{cargo, must, top};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// The target that the static agent is built for. Naming it keeps its flags off proc macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds everything in release mode and returns the directory with `banger`, `bangerd`,
/// `bangerd-root` and `banger-agent` (static: it runs in any guest).
pub(crate) fn dist() -> Result<PathBuf> {
    must(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "banger",
        "--package",
        "bangerd",
        "--package",
        "bangerd-root",
    ]))?;
    must(
        cargo(&[
            "build",
            "--release",
            "--target",
            TARGET,
            "--package",
            "banger-agent",
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;
    let target = top().join("target");
    let dist = target.join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("make {dist:?}"))?;
    for (from, name) in [
        ("release", "banger"),
        ("release", "bangerd"),
        ("release", "bangerd-root"),
        ("x86_64-unknown-linux-gnu/release", "banger-agent"),
    ] {
        // By rename: a running daemon keeps the file it was started from.
        let fresh = dist.join(format!(".{name}.new"));
        let built = target.join(from).join(name);
        fs::copy(&built, &fresh).with_context(|| format!("copy {built:?}"))?;
        fs::rename(&fresh, dist.join(name)).with_context(|| format!("put {name} into {dist:?}"))?;
    }
    Ok(dist)
}
