//! The ledger: what the helper made, one file each, in a directory of root's alone.
//!
//! It lives as long as what it tells of: until reboot. A file is written whole, under another
//! name, and renamed, so that it is the old or the new one however the helper ends; it need not
//! reach a disk. What is not one of its files is reported and never believed.

use std::cell::Cell;
use std::collections::BTreeMap;

use banger_ids::{VmId, VmRef};
use banger_priv::{Refusal, RefusalKind};
use banger_sys::dirs::{Dir, PathError, Wanted, prove};
use rustix::fs::FileType;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{BridgeEntry, VmEntry};
use crate::policy::{FIRST_UID, MAX_ENTRIES, MAX_ENTRY, MAX_VMS, UIDS};
use crate::refusal::{chain, failed, refuse};

const BRIDGE: &str = "bridge.json";
const NEW: &str = "new.tmp";

/// What the helper made, in memory and in its directory.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: Dir,
    vms: BTreeMap<VmId, VmEntry>,
    bridge: Option<BridgeEntry>,
    foreign: Vec<(String, String)>,
    next_uid: Cell<u32>,
}

impl Ledger {
    /// Reads the directory, which root alone may be able to enter.
    pub(crate) fn load(dir: Dir) -> Result<Self, Refusal> {
        let unusable = |error: PathError| failed("read the ledger", &error);
        dir.verify(rustix::process::geteuid().as_raw(), 0o077)
            .map_err(unusable)?;
        let names = dir.names(MAX_ENTRIES).map_err(unusable)?;
        let mut ledger = Self {
            dir,
            vms: BTreeMap::new(),
            bridge: None,
            foreign: Vec::new(),
            next_uid: Cell::new(FIRST_UID),
        };
        for name in names {
            if name == NEW {
                ledger.dir.unlink(NEW).map_err(unusable)?;
            } else if let Err(why) = ledger.take(&name) {
                ledger.foreign.push((name, why));
            }
        }
        Ok(ledger)
    }

    fn take(&mut self, name: &str) -> Result<(), String> {
        if name == BRIDGE {
            self.bridge = Some(self.read(name)?);
            return Ok(());
        }
        let id = name
            .strip_suffix(".json")
            .and_then(|stem| VmId::parse(stem).ok());
        let id = id.ok_or("not a name of the ledger's")?;
        let entry: VmEntry = self.read(name)?;
        if entry.vm.id != id {
            return Err("it tells of another VM".to_owned());
        }
        self.check_unique(&entry).map_err(|error| error.message)?;
        self.vms.insert(id, entry);
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        let wanted = Wanted {
            owner: Some(rustix::process::geteuid().as_raw()),
            forbidden: 0o077,
            ..Wanted::of(FileType::RegularFile)
        };
        let file = self
            .dir
            .open_file(name, rustix::fs::OFlags::RDONLY)
            .map_err(|error| chain(&error))?;
        prove(&file, wanted).map_err(|error| chain(&error))?;
        let text = banger_sys::dirs::read_capped(&file, MAX_ENTRY).map_err(|e| e.to_string())?;
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }

    /// Files that are none of the ledger's, or torn, each with the reason.
    pub(crate) fn foreign(&self) -> &[(String, String)] {
        &self.foreign
    }

    /// Removes torn files, but for those of the VMs in `keep`: for when nothing that they could tell
    /// of is left.
    pub(crate) fn drop_torn(&mut self, keep: &[VmRef]) -> Result<Vec<String>, Refusal> {
        let is_ours = |name: &str| {
            let stem = name.strip_suffix(".json");
            let id = stem.and_then(|stem| VmId::parse(stem).ok());
            name == BRIDGE || id.is_some_and(|id| keep.iter().all(|vm| vm.id != id))
        };
        let mut removed = Vec::new();
        while let Some(at) = self.foreign.iter().position(|(name, _)| is_ours(name)) {
            let (name, _) = self.foreign.swap_remove(at);
            self.remove(&name)?;
            removed.push(format!("torn record {name}"));
        }
        Ok(removed)
    }

    /// The bridge.
    pub(crate) fn bridge(&self) -> Option<&BridgeEntry> {
        self.bridge.as_ref()
    }

    /// Records the bridge, or that there is none.
    pub(crate) fn write_bridge(&mut self, entry: Option<BridgeEntry>) -> Result<(), Refusal> {
        match &entry {
            Some(entry) => self.replace(BRIDGE, entry)?,
            None => self.remove(BRIDGE)?,
        }
        self.bridge = entry;
        Ok(())
    }

    /// Changes what is recorded of the bridge, if there is one.
    pub(crate) fn update_bridge(
        &mut self,
        change: impl FnOnce(&mut BridgeEntry),
    ) -> Result<(), Refusal> {
        let Some(mut entry) = self.bridge.clone() else {
            return Ok(());
        };
        change(&mut entry);
        self.write_bridge(Some(entry))
    }

    /// Every VM.
    pub(crate) fn entries(&self) -> Vec<VmEntry> {
        self.vms.values().cloned().collect()
    }

    /// What is recorded of this VM and generation; of another generation is as of none.
    pub(crate) fn entry(&self, vm: &VmRef) -> Result<VmEntry, Refusal> {
        let entry = self.vms.get(&vm.id).filter(|entry| entry.vm == *vm);
        entry
            .cloned()
            .ok_or_else(|| refuse(RefusalKind::Unknown, format!("nothing was made for {vm}")))
    }

    /// As [`Self::entry`], or an empty one with a uid of its own, not yet written.
    pub(crate) fn entry_or_new(&self, vm: &VmRef) -> Result<VmEntry, Refusal> {
        match self.vms.get(&vm.id) {
            Some(entry) if entry.vm == *vm => return Ok(entry.clone()),
            Some(entry) => {
                let other = &entry.vm;
                let message = format!("make something for {vm}: what was made for {other} stands");
                return Err(refuse(RefusalKind::Exists, message));
            }
            None => {}
        }
        if self.vms.len() >= MAX_VMS {
            let message = format!("make something for {vm}: there are {MAX_VMS} VMs already");
            return Err(refuse(RefusalKind::Limit, message));
        }
        // A VM whose record cannot be read may have any uid.
        if let Some((name, why)) = self.foreign.first() {
            let message = format!("give {vm} a uid: {name:?} in the ledger is unreadable ({why})");
            return Err(refuse(RefusalKind::Failed, message));
        }
        let uid = self.free_uid()?;
        Ok(VmEntry {
            vm: vm.clone(),
            uid,
            tap: None,
            snapshot: None,
            jail: None,
            process: None,
        })
    }

    /// The next uid that is no VM's. Not one that was given out just now: its entry may be about to
    /// be written, by another thread.
    fn free_uid(&self) -> Result<u32, Refusal> {
        let is_free = |uid: &u32| self.vms.values().all(|entry| entry.uid != *uid);
        let from = self.next_uid.get();
        let uid = (from..FIRST_UID.saturating_add(UIDS))
            .chain(FIRST_UID..from)
            .find(is_free);
        let uid = uid.ok_or_else(|| refuse(RefusalKind::Limit, "no uid is free"))?;
        self.next_uid.set(uid.saturating_add(1));
        Ok(uid)
    }

    /// Records `entry` in the place of what was recorded of the VM; an empty one is forgotten.
    /// Refused if its uid or address is another's, or the VM is there in another generation.
    pub(crate) fn write(&mut self, entry: VmEntry) -> Result<(), Refusal> {
        self.check_unique(&entry)?;
        let name = format!("{}.json", entry.vm.id);
        if entry.is_empty() {
            self.remove(&name)?;
            self.vms.remove(&entry.vm.id);
        } else {
            self.replace(&name, &entry)?;
            self.vms.insert(entry.vm.id.clone(), entry);
        }
        Ok(())
    }

    /// Changes what is recorded of a VM.
    pub(crate) fn update(
        &mut self,
        vm: &VmRef,
        change: impl FnOnce(&mut VmEntry),
    ) -> Result<VmEntry, Refusal> {
        let mut entry = self.entry(vm)?;
        change(&mut entry);
        self.write(entry.clone())?;
        Ok(entry)
    }

    fn check_unique(&self, entry: &VmEntry) -> Result<(), Refusal> {
        let vm = &entry.vm;
        if !(FIRST_UID..FIRST_UID.saturating_add(UIDS)).contains(&entry.uid) {
            let message = format!("record {vm}: uid {} is not one for VMs", entry.uid);
            return Err(refuse(RefusalKind::Invalid, message));
        }
        for other in self.vms.values() {
            let clash = if other.vm.id == vm.id {
                (other.vm != *vm).then(|| format!("{} stands", other.vm))
            } else if other.uid == entry.uid {
                Some(format!("its uid is that of {}", other.vm))
            } else {
                let both = entry.tap.as_ref().zip(other.tap.as_ref());
                both.filter(|(ours, theirs)| ours.address == theirs.address)
                    .map(|(tap, _)| format!("address {} is that of {}", tap.address, other.vm))
            };
            if let Some(clash) = clash {
                return Err(refuse(RefusalKind::Exists, format!("record {vm}: {clash}")));
            }
        }
        Ok(())
    }

    fn replace(&self, name: &str, entry: &impl Serialize) -> Result<(), Refusal> {
        let what = || format!("write {name:?} in the ledger");
        let text = serde_json::to_vec(entry).map_err(|error| failed(what(), &error))?;
        self.remove(NEW)?;
        let write = || {
            let file = self.dir.create_new_file(NEW, 0o600)?;
            let mut rest = text.as_slice();
            while !rest.is_empty() {
                let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest));
                let written = written.map_err(|errno| PathError::Kernel {
                    operation: "write",
                    name: NEW.to_owned(),
                    errno,
                })?;
                rest = rest.get(written..).unwrap_or(&[]);
            }
            self.dir.rename(NEW, name)
        };
        write().map_err(|error: PathError| {
            // At the next start it is removed unread, if not now.
            self.dir.unlink(NEW).ok();
            failed(what(), &error)
        })
    }

    fn remove(&self, name: &str) -> Result<(), Refusal> {
        match self.dir.unlink(name) {
            Err(error) if error.errno() != Some(Errno::NOENT) => {
                Err(failed(format!("remove {name:?} from the ledger"), &error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
