//! What happened to VMs, a line each.

use banger_names::{VmId, VmName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was made.
    Created,
    /// Its VMM is being started.
    Started,
    /// Its agent answers.
    Running,
    /// It is being stopped.
    Stopping,
    /// It was stopped, or its guest powered off; see the reason.
    Stopped,
    /// Its VMM or guest ended by itself, or it could not start; see the reason.
    Crashed,
    /// It was removed.
    Removed,
    /// It has another name; the reason is the one before.
    Renamed,
    /// It runs again after a restart; the reason says whose.
    Restarted,
    /// The host's kernel killed its VMM because memory ran out.
    Oom,
    /// Its time is up.
    Ttl,
    /// Its VMM does not answer, or was stopped; see the reason. Nothing is done about it.
    Hung,
    /// Its VMM answers again.
    Recovered,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Created,
        Self::Started,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Crashed,
        Self::Removed,
        Self::Renamed,
        Self::Restarted,
        Self::Oom,
        Self::Ttl,
        Self::Hung,
        Self::Recovered,
    ];

    /// The kind as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Removed => "removed",
            Self::Renamed => "renamed",
            Self::Restarted => "restarted",
            Self::Oom => "oom",
            Self::Ttl => "ttl",
            Self::Hung => "hung",
            Self::Recovered => "recovered",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Its number; each is one more than that of the event before, for as long as the state lasts.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What happened.
    pub event: EventKind,
    /// The VM's id.
    #[schema(value_type = String)]
    pub id: VmId,
    /// Its name then.
    #[schema(value_type = String)]
    pub name: VmName,
    /// One word on why, as in `exit.reason` of a VM.
    pub reason: Option<String>,
    /// One line for people. Hostile until sanitised.
    pub detail: Option<String>,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum EventLine {
    /// An event.
    Event(EventView),
    /// So many events are no longer there, because the reader was slow or they are too old.
    Missed {
        /// How many.
        count: u64,
    },
}
