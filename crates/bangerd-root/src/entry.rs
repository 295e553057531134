//! What the ledger has of the bridge and of each VM: written before it is done.

use std::net::Ipv4Addr;

use banger_ids::{BridgeName, Subnet, VmRef};
use serde::{Deserialize, Serialize};

/// What was made, or begun to be made, for a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmEntry {
    /// The VM.
    pub(crate) vm: VmRef,
    /// Its uid and gid on the host, no other VM's as long as this entry stands.
    pub(crate) uid: u32,
    /// Its tap.
    pub(crate) tap: Option<TapEntry>,
    /// Its device-mapper snapshot.
    pub(crate) snapshot: Option<SnapshotEntry>,
    /// Its jail.
    pub(crate) jail: Option<JailEntry>,
    /// Its VMM.
    pub(crate) process: Option<ProcessEntry>,
}

impl VmEntry {
    /// Whether nothing stands that needs a record.
    pub(crate) fn is_empty(&self) -> bool {
        self.tap.is_none()
            && self.snapshot.is_none()
            && self.jail.is_none()
            && self.process.is_none()
    }
}

/// A tap. Its name follows from the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TapEntry {
    /// The guest's address, from which its MAC address follows.
    pub(crate) address: Ipv4Addr,
    /// Whether the guest may reach out, masqueraded.
    pub(crate) has_nat: bool,
}

/// A device-mapper snapshot. Its name and UUID follow from the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotEntry {
    /// Its size in bytes.
    pub(crate) bytes: u64,
}

/// A jail. Its name follows from the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JailEntry {}

/// A VMM, by what tells it from every other process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessEntry {
    /// Its pid.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) started: u64,
    /// Its control group, where there is one.
    pub(crate) cgroup: Option<String>,
    /// Whether that group was made for it and holds nothing else.
    pub(crate) has_own_cgroup: bool,
}

/// The bridge, and what was changed on the host for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BridgeEntry {
    /// Its name.
    pub(crate) name: BridgeName,
    /// Its address and prefix length.
    pub(crate) subnet: Subnet,
    /// Links on which forwarding was switched on.
    pub(crate) uplinks: Vec<String>,
    /// The port that systemd-resolved was told of.
    pub(crate) resolver_port: Option<u16>,
}
