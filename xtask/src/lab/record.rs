//! What is known of a running lab, written beside its logs: enough for another process to use it,
//! and to end it and nothing else.

use super::machine::Flavour;
use super::place;
use super::process::{Process, ProcessId};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const FILE: &str = "lab.json";

/// How far a lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Its process may still be the one that has QEMU below it.
    Starting,
    /// It takes commands.
    Ready,
}

/// A running lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) state: State,
    pub(super) process: ProcessId,
    pub(super) flavour: Flavour,
    pub(super) memory_mib: u32,
    /// The local TCP port of its sshd; 0 while it is starting.
    pub(super) port: u16,
    /// When it was started, in seconds since 1970.
    pub(super) started_unix: u64,
}

impl Record {
    /// Writes it into the lab's directory, in place of an older one.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let fresh = dir.join(".lab.json.new");
        let text = serde_json::to_vec_pretty(self)?;
        fs::write(&fresh, text).with_context(|| format!("write {fresh:?}"))?;
        fs::rename(&fresh, dir.join(FILE)).with_context(|| format!("put {FILE} into {dir:?}"))
    }

    /// Reads a lab's record; `None` if there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text);
                Ok(Some(record.with_context(|| format!("read {path:?}"))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {path:?}")),
        }
    }

    /// Its process, if that still runs.
    pub(super) fn alive(&self) -> Option<Process> {
        Process::find(&self.process)
    }
}

/// The directory of the lab with this name, which need not exist.
pub(super) fn run_directory(name: &str) -> Result<PathBuf> {
    let is_plain = (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_plain {
        bail!("a lab's name is 1 to 32 of a-z, 0-9 and -, not {name:?}");
    }
    Ok(place::directory(&["run"])?.join(name))
}

/// The names of all labs that have left a directory, running or not, in order.
pub(super) fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(place::directory(&["run"])?)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
