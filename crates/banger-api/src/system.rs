//! The daemon and the host on the wire.

use banger_names::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The daemon's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// The version of the program.
    pub version: String,
    /// The version of this API.
    pub api: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
}

/// What the daemon found on its host and chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// How VMs get their privileges; `system`, `local` or `rootless`.
    pub mode: String,
    /// What runs VMs; `None` if nothing can.
    pub engine: Option<EngineView>,
    /// What was looked at, each finding with its fix.
    pub checks: Vec<Check>,
}

/// What was removed of what belonged to no VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TidyView {
    /// What was removed, a line each.
    pub removed: Vec<String>,
    /// What could not be, and why.
    pub left: Vec<String>,
}

/// What runs VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EngineView {
    /// Its name, as `qemu`.
    pub name: String,
    /// Its version and why it was chosen, in one line.
    pub description: String,
}

/// One finding about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// A stable name, as `engine.qemu`.
    pub name: String,
    /// How it stands.
    pub status: CheckStatus,
    /// What was found, in one line.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could.
    Warning,
    /// Does not work.
    Failed,
}

/// What one kind of thing takes on the host's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskUseView {
    /// What: `images`, `kernels`, `vms`, `logs`, `cache`.
    pub kind: String,
    /// How many there are.
    pub count: u64,
    /// What they take, in bytes.
    #[schema(value_type = u64)]
    pub size: ByteSize,
    /// How much of it nothing needs now, in bytes.
    #[schema(value_type = u64)]
    pub reclaimable: ByteSize,
    /// The command that frees it.
    pub hint: String,
}

/// The daemon, its host, and what limits VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InfoView {
    /// The daemon's version.
    pub version: String,
    /// How VMs get their privileges; `system`, `local` or `rootless`.
    pub mode: String,
    /// What runs VMs, in one line; null if nothing can.
    pub engine: Option<String>,
    /// The host.
    pub host: HostSizeView,
    /// Its directories.
    pub directories: DirectoriesView,
    /// What limits VMs.
    pub limits: LimitsView,
    /// How many VMs there are.
    pub vms: u64,
    /// How many of them have a VMM.
    pub vms_running: u64,
}

/// The size of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostSizeView {
    /// CPUs that the daemon may use.
    pub cpus: u64,
    /// Memory in bytes.
    #[schema(value_type = u64)]
    pub memory: ByteSize,
    /// Its kernel's release.
    pub kernel: String,
    /// What is free for VM disks, in bytes.
    #[schema(value_type = u64)]
    pub disk_free: ByteSize,
}

/// Where the daemon keeps what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DirectoriesView {
    /// Sockets.
    pub runtime: String,
    /// VMs and the database.
    pub state: String,
    /// Images and kernels.
    pub data: String,
    /// What can be got again.
    pub cache: String,
    /// The configuration file.
    pub config: String,
}

/// What limits VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsView {
    /// Virtual CPUs that a VM can have at most.
    pub cpus: u32,
    /// The memory of all VMs that run, in bytes.
    #[schema(value_type = u64)]
    pub memory_given: ByteSize,
    /// What must stay free on the file system of VM disks, in bytes.
    #[schema(value_type = u64)]
    pub disk_reserve: ByteSize,
    /// What the logs of one VM may take, each, in bytes.
    #[schema(value_type = u64)]
    pub log_cap: ByteSize,
    /// How long a guest may boot, in milliseconds.
    pub boot_ms: u64,
}
