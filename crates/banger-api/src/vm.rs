//! VMs on the wire: asked ([`VmSpec`]) and shown ([`VmView`]).

use crate::RestartPolicy;
use banger_guest::request::Exec;
use banger_names::{ByteSize, Digest, VmId, VmName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use utoipa::ToSchema;

/// A VM as asked for; what is left out comes from the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VmSpec {
    /// Its name; made from the id when left out.
    #[schema(value_type = Option<String>)]
    pub name: Option<VmName>,
    /// The image, by tag or digest (a unique prefix will do).
    pub image: Option<String>,
    /// The kernel, by name or digest.
    pub kernel: Option<String>,
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// Memory in bytes.
    #[schema(value_type = Option<u64>)]
    pub memory: Option<ByteSize>,
    /// Size of the writable disk in bytes.
    #[schema(value_type = Option<u64>)]
    pub disk: Option<ByteSize>,
    /// How the disk is kept apart from the image.
    pub storage: Option<StorageMode>,
    /// The network.
    pub network: Option<NetworkMode>,
    /// Who is PID 1.
    pub init: Option<InitMode>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// When it is started again by itself; only for VMs that are kept.
    #[schema(value_type = Option<String>)]
    pub restart: Option<RestartPolicy>,
    /// After how long, since it runs, it is stopped (a run: ended), in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// What network a VM gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The host's bridge: the guest has an address of its own and reaches outward by it; nothing
    /// but the host reaches the guest. Needs the root helper.
    Nat,
    /// User-mode networking: the guest reaches what the host reaches, nothing reaches the guest.
    #[default]
    User,
    /// Loopback only.
    None,
}

/// How what a VM writes is kept apart from its image, which is never written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StorageMode {
    /// A disk of the VM's own over the image, joined by the guest: works everywhere.
    #[default]
    Overlay,
    /// A device of the host's over the image, as large as that: the guest has an ext4 root
    /// of its own. `disk` is how much of it can be written. Needs the root helper.
    Snapshot,
}

/// Who is PID 1 in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitMode {
    /// banger's agent: first command soonest.
    #[default]
    Agent,
    /// The image's own init (systemd, say), with the agent beside it.
    Systemd,
}

/// Makes a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateVm {
    /// The VM.
    pub vm: VmSpec,
    /// Whether to start it too.
    pub start: bool,
    /// How long the start may take, in milliseconds; the daemon's own limit when left out.
    pub timeout_ms: Option<u64>,
}

/// Starts a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StartVm {
    /// How long it may take, in milliseconds; the daemon's own limit when left out.
    pub timeout_ms: Option<u64>,
}

/// Makes a VM, boots it, runs one command in it and removes it. The stream's life is the VM's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunVm {
    /// The VM.
    pub vm: VmSpec,
    /// The command.
    #[schema(value_type = Object)]
    pub exec: Exec,
    /// The absolute directory in the guest that the client's workspace is unpacked into
    /// before the command runs; `None`: no workspace follows.
    pub workspace: Option<String>,
}

/// Stops a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopVm {
    /// How long the guest may take before it is forced, in milliseconds; default 10,000.
    pub timeout_ms: Option<u64>,
}

/// Gives a VM another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameVm {
    /// The name.
    #[schema(value_type = String)]
    pub name: VmName,
}

/// Changes a VM; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetVm {
    /// Virtual CPUs, from the next start on.
    pub cpus: Option<u32>,
    /// Memory in bytes, from the next start on.
    #[schema(value_type = Option<u64>)]
    pub memory: Option<ByteSize>,
    /// Labels to set; null removes one.
    pub labels: BTreeMap<String, Option<String>>,
    /// When it is started again by itself.
    #[schema(value_type = Option<String>)]
    pub restart: Option<RestartPolicy>,
    /// How long it may run, in milliseconds, from now on if it does; 0: for ever.
    pub ttl_ms: Option<u64>,
}

/// Removes a VM (query parameters).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RemoveVm {
    /// Whether a running VM is killed first.
    pub force: bool,
}

/// What to wait for (query parameters of `wait`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// Until it no longer runs.
    #[default]
    Stopped,
    /// Until its agent answers.
    Running,
    /// Until its VMM or guest has ended by itself, or it could not start.
    Crashed,
    /// Until it is gone.
    Removed,
}

/// Which log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The guest's serial console.
    #[default]
    Console,
    /// The VMM's own messages.
    Vmm,
}

/// Where a VM is in its life. The machine is drawn in `bangerd/src/vm/mod.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Made, never started.
    Created,
    /// Its VMM is being started or its guest boots.
    Starting,
    /// Its agent answers.
    Running,
    /// It is being stopped.
    Stopping,
    /// It was stopped, or its guest powered off.
    Stopped,
    /// Its VMM or guest ended by itself, or it could not start; see the reason.
    Crashed,
    /// It is being removed.
    Removing,
}

impl VmState {
    /// The state as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Removing => "removing",
        }
    }
}

/// How a VM's last life ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmExitView {
    /// One word: `powered_off`, `stopped`, `forced`, `killed`, `panicked`, `crashed`, `failed`,
    /// `oom`, `disk_full`, `host_full`, `ttl`, `lost`.
    pub reason: String,
    /// One line for people. Hostile until sanitised.
    pub detail: String,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// A VMM that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HungView {
    /// When that was found, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// One line on what was seen.
    pub why: String,
}

/// A VM as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: VmId,
    /// Its name.
    #[schema(value_type = String)]
    pub name: VmName,
    /// Where it is in its life.
    pub state: VmState,
    /// That its VMM does not answer, for as long as it does not.
    #[serde(default)]
    pub hung: Option<HungView>,
    /// The image as asked for.
    pub image: String,
    /// The image's digest.
    #[schema(value_type = String)]
    pub image_digest: Digest,
    /// The kernel's name.
    pub kernel: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    #[schema(value_type = u64)]
    pub memory: ByteSize,
    /// Size of the writable disk in bytes.
    #[schema(value_type = u64)]
    pub disk: ByteSize,
    /// What the writable disk takes on the host, in bytes.
    #[schema(value_type = u64)]
    pub disk_used: ByteSize,
    /// How the disk is kept apart from the image.
    pub storage: StorageMode,
    /// With storage `snapshot`, the size of the root file system: its image's. `disk` is how much
    /// of it can be written.
    #[schema(value_type = Option<u64>)]
    pub root_size: Option<ByteSize>,
    /// The network.
    pub network: NetworkMode,
    /// Its address on the host's bridge, with network `nat`.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// Who is PID 1.
    pub init: InitMode,
    /// Whether it goes away with the run that made it.
    pub ephemeral: bool,
    /// Whether something that was changed while it runs (name, CPUs, memory) waits for its next start.
    #[serde(default)]
    pub needs_restart: bool,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// What runs it, while it runs, as `qemu (emulation)`.
    pub engine: Option<String>,
    /// The VMM's process id, while it runs.
    pub pid: Option<u32>,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it was last started.
    pub started_unix_ms: Option<u64>,
    /// From the last start to the agent's answer, in milliseconds.
    pub boot_ms: Option<u64>,
    /// How its last life ended.
    pub exit: Option<VmExitView>,
    /// When it is started again by itself.
    #[serde(default)]
    #[schema(value_type = String)]
    pub restart: RestartPolicy,
    /// How often that happened since it was last started by a command or ran for long.
    #[serde(default)]
    pub restarts: u32,
    /// When it is started again next, if it waits for that, in milliseconds since 1970.
    #[serde(default)]
    pub restarts_unix_ms: Option<u64>,
    /// After how long, since it runs, it is stopped, in milliseconds.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// When that is, while it runs, in milliseconds since 1970.
    #[serde(default)]
    pub expires_unix_ms: Option<u64>,
}

/// What an ssh client needs to reach a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SshView {
    /// The name to connect to: `NAME.vm`, as it stands in `known_hosts`.
    pub host: String,
    /// The file that pins the host keys of all VMs.
    pub known_hosts: String,
    /// The owner's private key for VMs.
    pub identity: String,
}
