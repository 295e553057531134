//! The wire between the command line and the daemon, version 1, and a client for it.
//!
//! HTTP/1.1 with JSON over one Unix socket. Three shapes of answer:
//! - a plain JSON body;
//! - *steps*: a body of JSON lines, each a [`Step`], for work that takes long; ends with
//!   `done` or `failed`. When the client goes away the work is cancelled and undone;
//! - a *stream*: `101 Switching Protocols` to `banger-stream/1`, then frames of
//!   [`banger_guest::frame`] both ways (see [`stream`]).
//!
//! Every failure is a [`Problem`]. Both ends check the peer's uid before a byte is parsed.
#![forbid(unsafe_code)]

pub mod client;
mod config;
mod dirs;
mod event;
mod image;
mod install;
mod problem;
mod restart;
mod stats;
pub mod stream;
mod system;
mod vm;

pub use config::{
    Accel, Config, DaemonConfig, DaemonMode, DebianConfig, EngineConfig, EngineName, NetworkConfig,
    VmDefaults,
};
pub use dirs::{Dirs, DirsError};
pub use event::{EventKind, EventLine, EventView};
pub use image::{
    AddImage, AddKernel, BuildImage, BuildKernel, ImageView, ImportImage, ImportKernel, KernelView,
    PullKernel, SetDefaultKernel,
};
pub use install::{Install, InstallError, InstallPaths, Owner};
pub use problem::{Problem, ProblemBody, ProblemCode};
pub use restart::RestartPolicy;
pub use stats::StatsView;
pub use stream::{Progress, Step};
pub use system::{
    Check, CheckStatus, DirectoriesView, DiskUseView, EngineView, HostSizeView, HostView, InfoView,
    LimitsView, TidyView, VersionView,
};
pub use vm::{
    CreateVm, HungView, InitMode, LogSource, NetworkMode, RemoveVm, RenameVm, RunVm, SetVm,
    SshView, StartVm, StopVm, StorageMode, VmExitView, VmSpec, VmState, VmView, WaitFor,
};
