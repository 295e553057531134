//! Every kept VM's record once more, beside its disk: what a lost database is made from again.
//!
//! A copy is written whenever the row is, by another name and a rename; the database is
//! what counts while there is one.

use crate::files;
use crate::vm::record::VmRecord;
use banger_names::VmId;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A copy's name in the VM's state directory.
const NAME: &str = "vm.json";

/// The largest copy that is read, in bytes.
const MAX_COPY: u64 = 256 << 10;

/// Writes a VM's copy. One that cannot be written is told and no failure: the row is what counts,
/// and the copy is written again with its next change.
pub(super) fn keep(root: &Path, record: &VmRecord) {
    if let Err(error) = write(root, record) {
        tracing::warn!(vm = %record.id, %error, "write the copy of a record");
    }
}

/// Writes the copy of a VM below `root`, the directory of all VMs' state. One that is not
/// meant to last has none, nor has one whose directory is not there yet.
fn write(root: &Path, record: &VmRecord) -> io::Result<()> {
    let dir = root.join(record.id.as_str());
    if record.plan.ephemeral || !dir.is_dir() {
        return Ok(());
    }
    let is_first = !dir.join(NAME).exists();
    let text = serde_json::to_vec_pretty(record)?;
    let new = dir.join(".vm.json.new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(NAME))?;
    // The names, too, outlive a loss of power.
    File::open(&dir)?.sync_all()?;
    if is_first {
        File::open(root)?.sync_all()?;
    }
    Ok(())
}

/// A VM's directory that no row knows and that has no copy of a record either.
#[derive(Debug, Clone)]
pub(crate) struct Orphan {
    /// The VM.
    pub(crate) id: VmId,
    /// Why its copy cannot be used.
    pub(crate) why: String,
}

/// The directories below `root` of VMs that are not `known`, by id: their records' copies, and
/// those without one.
pub(crate) fn orphans(
    root: &Path,
    known: impl Fn(&VmId) -> bool,
) -> io::Result<Vec<Result<VmRecord, Orphan>>> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| VmId::parse(name).ok()) else {
            continue; // not ours
        };
        if !known(&id) {
            let copy = read(&root.join(id.as_str()), &id);
            found.push((id, copy));
        }
    }
    found.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    let judged = found.into_iter().map(|(id, copy)| {
        copy.map_err(|error| Orphan {
            id,
            why: error.to_string(),
        })
    });
    Ok(judged.collect())
}

fn read(dir: &Path, id: &VmId) -> io::Result<VmRecord> {
    let text = files::read_small(&dir.join(NAME), MAX_COPY)?;
    let record: VmRecord = serde_json::from_str(&text)?;
    if record.id != *id {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is another VM's record",
        ));
    }
    Ok(record)
}
