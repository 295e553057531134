//! What the helper answers.

use crate::VmRef;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A whole answer: one for each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It was done.
    Done(Reply),
    /// It was not, and nothing of it is left.
    Refused(Refusal),
}

/// What was done. Each verb has one kind of reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To `priv.status`.
    Status(Status),
    /// To `priv.ensure_bridge`.
    Bridge(BridgeUp),
    /// To `priv.create_tap`.
    Tap(Tap),
    /// To `priv.create_dm_snapshot`.
    Snapshot(Snapshot),
    /// To `priv.launch_firecracker` and `priv.ensure_socket_access`.
    Vmm(Vmm),
    /// To `priv.cleanup_jailer_chroot`: how the VMM ended, where the helper saw it.
    Ended {
        /// Its exit code, or 128 and the signal that ended it.
        code: Option<u8>,
    },
    /// To `priv.reclaim`: what was removed, in words.
    Reclaimed(Vec<String>),
    /// To the rest.
    Nothing,
}

/// The helper and what it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// banger's version.
    pub version: String,
    /// The VMs in its ledger.
    pub vms: Vec<VmStatus>,
    /// Who else decides about forwarded packets; `None` where that could not be looked at.
    pub others: Option<Others>,
}

/// Chains of others that guests' packets pass, too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Others {
    /// The chains, 16 at most.
    pub chains: Vec<OtherChain>,
    /// Whether some rule of others is about our bridge by its name; not looked for without a chain.
    pub name_bridge: bool,
}

/// A chain of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherChain {
    /// Its table, in at most 32 printable ASCII characters.
    pub table: String,
    /// Its name, likewise.
    pub name: String,
    /// Whether it drops what none of its rules decides.
    pub drops: bool,
}

/// What the helper made for a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmStatus {
    /// The VM.
    pub vm: VmRef,
    /// Its address, if it has a tap.
    pub address: Option<Ipv4Addr>,
    /// Whether it has a device-mapper snapshot.
    pub has_snapshot: bool,
    /// Whether its VMM runs, by the kernel's word.
    pub is_running: bool,
}

/// The bridge stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeUp {
    /// Whether it was made by this request.
    pub is_new: bool,
}

/// A tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Its name on the host.
    pub name: String,
    /// The guest's MAC address, as `06:fc:ac:1e:00:02`.
    pub mac: String,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Its size in bytes.
    pub bytes: u64,
}

/// A VMM that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vmm {
    /// Its process, for people: nothing is done by this number.
    pub pid: u32,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of reason it is.
    pub kind: RefusalKind,
    /// The reason, in one line of at most 500 bytes, without control characters.
    pub message: String,
}

/// Kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request is none, or not a possible one.
    Invalid,
    /// The VM, or what was asked about of it, is not in the ledger.
    Unknown,
    /// It exists already, in another form than asked for.
    Exists,
    /// It is in use, or another request for this VM is being carried out.
    Busy,
    /// It belongs to somebody else.
    Foreign,
    /// A limit is reached.
    Limit,
    /// The host lacks something.
    Unsupported,
    /// It took too long.
    TimedOut,
    /// The system failed; what had been done was undone, or the message says what was not.
    Failed,
}
