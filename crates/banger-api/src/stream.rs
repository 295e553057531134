//! Answers that go on: steps (JSON lines) and upgraded streams (frames).
//!
//! On an upgraded stream the daemon sends `Reply` frames whose payload is a [`StreamEvent`],
//! then the frames that [`banger_guest::request`] describes for the request; a `Failure`
//! frame carries a [`Problem`]. The client sends `Stdin`, `Resize`, `Signal` or `Data`.
//! Closing the connection cancels what it stands for: a run's VM is removed.

use crate::{ImageView, KernelView, Problem, VmView};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The protocol named in the `Upgrade` header.
pub const UPGRADE: &str = "banger-stream/1";

/// How far a long piece of work is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What is being done, as `download kernel`; a new text is a new step.
    pub step: String,
    /// More about it, as a file's name; may be empty. Hostile until sanitised.
    #[serde(default)]
    pub detail: String,
    /// How much is done, in bytes or items.
    #[serde(default)]
    pub done: Option<u64>,
    /// How much there is.
    #[serde(default)]
    pub total: Option<u64>,
}

/// One line of an answer in steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It goes on.
    Progress(Progress),
    /// An image is ready; the last line.
    Image(Box<ImageView>),
    /// A kernel is ready; the last line.
    Kernel(Box<KernelView>),
    /// A VM is ready; the last line.
    Vm(Box<VmView>),
    /// It failed, and what it had made is gone; the last line.
    Failed(Problem),
}

/// The payload of a `Reply` frame on an upgraded stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamEvent {
    /// Something is being prepared (a run only).
    Progress(Progress),
    /// The VM's agent answers (a run only). If the request has a workspace, the client now
    /// sends its tar stream as `Data` frames, an empty one last.
    Booted(Box<VmView>),
    /// The command runs, or the copy or connection is open: frames may flow.
    Open,
}
