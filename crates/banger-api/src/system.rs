//! The daemon and the host on the wire.

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
