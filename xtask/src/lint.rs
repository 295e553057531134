//! `cargo xtask lint`: formatting, clippy, and the rules of ARCHITECTURE.md that a program can check.

use crate::{cargo, must, top};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates of the workspace that each crate may use. A new edge is a decision: it is
/// written here or it does not build in CI. Development dependencies are free.
const EDGES: [(&str, &[&str]); 19] = [
    ("banger-ids", &[]),
    ("banger-names", &["banger-ids"]),
    ("banger-sys", &[]),
    ("banger-guest-sys", &["banger-sys"]),
    ("banger-bus", &[]),
    ("banger-ipc", &["banger-sys"]),
    ("banger-priv", &["banger-ids", "banger-ipc"]),
    ("banger-priv-client", &["banger-ipc", "banger-priv"]),
    (
        "bangerd-root",
        &[
            "banger-bus",
            "banger-ids",
            "banger-ipc",
            "banger-priv",
            "banger-sys",
        ],
    ),
    ("banger-guest", &[]),
    (
        "banger-agent",
        &["banger-guest", "banger-guest-sys", "banger-sys"],
    ),
    ("banger-engine", &["banger-guest"]),
    ("banger-images", &["banger-guest", "banger-names"]),
    ("banger-api", &["banger-guest", "banger-names"]),
    (
        "bangerd",
        &[
            "banger-api",
            "banger-engine",
            "banger-guest",
            "banger-images",
            "banger-names",
            "banger-priv",
            "banger-priv-client",
        ],
    ),
    (
        "banger",
        &["banger-api", "banger-guest", "banger-names", "banger-priv"],
    ),
    ("e2e", &[]),
    (
        "xtask",
        &[
            "banger-api",
            "banger-guest",
            "banger-images",
            "banger-names",
        ],
    ),
    ("fuzz", &[]),
];

/// A file over so many lines is split by type and responsibility.
const MAX_LINES: usize = 500;

/// Names that say nothing about what a module is for.
const EMPTY_NAMES: [&str; 7] = [
    "utils", "helpers", "common", "misc", "manager", "types", "core",
];

/// Where unsafe code may be.
const UNSAFE: [&str; 2] = ["crates/banger-sys", "crates/banger-guest-sys"];

/// Runs every check; the first that fails is the error.
pub(crate) fn run() -> Result<()> {
    must(&mut cargo(&["fmt", "--all", "--check"]))?;
    must(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    edges()?;
    sources()?;
    println!("lint: formatting, clippy, crate edges, files: all as they should be");
    Ok(())
}

/// Checks the dependencies between the workspace's crates against [`EDGES`].
fn edges() -> Result<()> {
    let output = cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .context("run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
            faults.push(format!("{name} has no row in the table of edges"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"] == "dev";
            if names.contains(to) && !is_dev && !allowed.contains(&to) {
                faults.push(format!("{name} may not use {to}"));
            }
        }
    }
    if !faults.is_empty() {
        bail!("crate edges (xtask/src/lint.rs): {}", faults.join("; "));
    }
    Ok(())
}

/// Checks every Rust file that git knows or would add: what it is for stands first, it is not
/// too long, its name says something, and no crate but those of [`UNSAFE`] allows unsafe code.
fn sources() -> Result<()> {
    let mut faults = Vec::new();
    for path in rust_files()? {
        let shown = path.display();
        let text =
            fs::read_to_string(top().join(&path)).with_context(|| format!("read {shown}"))?;
        if !text.starts_with("//!") {
            faults.push(format!(
                "{shown} does not begin by saying what it is for (//!)"
            ));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES && !is_test(&path) {
            faults.push(format!("{shown} has {lines} lines, over {MAX_LINES}"));
        }
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        if EMPTY_NAMES.contains(&stem) {
            faults.push(format!("{shown}: the name says nothing"));
        }
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        let may_be_unsafe = UNSAFE.iter().any(|room| path.starts_with(room));
        if is_root && !may_be_unsafe && !text.contains("#![forbid(unsafe_code)]") {
            faults.push(format!("{shown} does not forbid unsafe code"));
        }
    }
    if !faults.is_empty() {
        bail!(
            "{} faults in source files:\n  {}",
            faults.len(),
            faults.join("\n  ")
        );
    }
    Ok(())
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

fn rust_files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
            "*.rs",
        ])
        .current_dir(top())
        .output()
        .context("run git ls-files")?;
    let list = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(list
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|path| top().join(path).exists())
        .collect())
}
