//! A store of images and kernels for the lab: only what the benchmark boots, so that little has
//! to be unpacked in there.

use super::home::Home;
use crate::{must, top};
use anyhow::{Context, Result, bail};
use banger_images::{Kernel, NoProgress, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How the names of kernels begin that `banger kernel build` made.
const LEAN: &str = "lean-";

/// The image that is booted.
const IMAGE: &str = "debian";

/// A directory that is a `BANGER_HOME` for the lab.
pub(super) struct LabStore {
    dir: tempfile::TempDir,
    /// Debian's kernel, by name.
    pub(super) debian: String,
    /// The lean kernel, by name, if there is one.
    pub(super) lean: Option<String>,
    /// The image's file, relative to the home.
    pub(super) image: PathBuf,
}

impl LabStore {
    /// Takes Debian's kernel and the image out of the tests' store, which `home` has provisioned;
    /// the lean kernel out of the store at `lean`, or else also from there.
    pub(super) fn assemble(home: &Home, lean: Option<&Path>) -> Result<Self> {
        let from = Store::open(&home.path().join("data"), &home.path().join("cache"))?;
        let kernels = from.kernels()?;
        let debian = kernels
            .iter()
            .find(|kernel| kernel.modules_dir().is_some())
            .context("the tests' store has no kernel of Debian's")?;
        let own_lean = kernels.iter().find(|kernel| is_lean(kernel));
        let image = from.image(IMAGE)?.path();

        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(top().join("target"))?;
        let home = dir.path().join("home");
        let data = home.join("data");
        let mut wanted = vec![
            parent(&debian.vmlinux())?.to_owned(),
            parent(&image)?.to_owned(),
        ];
        if lean.is_none() {
            wanted.extend(
                own_lean
                    .map(|k| k.vmlinux())
                    .as_deref()
                    .map(parent)
                    .transpose()?
                    .map(Path::to_owned),
            );
        }
        let from_data = parent(parent(parent(&image)?)?)?;
        fs::create_dir_all(&data).with_context(|| format!("make {data:?}"))?;
        fs::copy(from_data.join("index.json"), data.join("index.json"))?;
        for content in &wanted {
            copy(from_data, content, &data)?;
        }
        let to = Store::open(&data, &home.join("cache"))?;
        let lean = match lean {
            Some(other) => Some(import_lean(&to, other)?),
            None => own_lean.map(|kernel| kernel.name.to_string()),
        };
        let image = image.strip_prefix(from_data)?;
        Ok(Self {
            debian: debian.name.to_string(),
            lean,
            image: Path::new("data").join(image),
            dir,
        })
    }

    /// The home, to be pushed.
    pub(super) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }
}

fn is_lean(kernel: &Kernel) -> bool {
    kernel.name.as_str().starts_with(LEAN)
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent()
        .with_context(|| format!("{path:?} has no directory"))
}

/// Copies a directory of a store to the same place in another.
fn copy(data: &Path, content: &Path, to: &Path) -> Result<()> {
    let target = to.join(content.strip_prefix(data)?);
    fs::create_dir_all(parent(&target)?)?;
    must(
        Command::new("cp")
            .args(["--archive", "--sparse=always", "--reflink=auto", "--"])
            .arg(content)
            .arg(target),
    )
}

/// Imports the lean kernel of another store, which is only read.
fn import_lean(to: &Store, other: &Path) -> Result<String> {
    let data = other.join("data");
    let data = if data.is_dir() {
        data
    } else {
        other.to_owned()
    };
    if !data.join("index.json").is_file() {
        bail!("{other:?} is no store of banger's");
    }
    let scratch = tempfile::tempdir()?;
    let kernels = Store::open(&data, scratch.path())?.kernels()?;
    let mut lean: Vec<&Kernel> = kernels.iter().filter(|kernel| is_lean(kernel)).collect();
    lean.sort_by_key(|kernel| kernel.is_default);
    let kernel = lean
        .last()
        .with_context(|| format!("{other:?} has no kernel {LEAN}* (banger kernel build)"))?;
    to.kernel_import(&kernel.vmlinux(), None, &kernel.name, &NoProgress)?;
    Ok(kernel.name.to_string())
}
