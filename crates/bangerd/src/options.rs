//! What a daemon is made of: its role, directories, engine, helper and limits.

use crate::privilege::Helper;
use crate::vm::plan::RESERVE;
use banger_api::Dirs;
use banger_engine::Engine;
use banger_names::ByteSize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a daemon is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything, for a user without an installation.
    Own,
    /// The VMs of an installation's owner. Confined: it makes no kernels and images.
    System,
    /// The kernels and images of an installation, made outside its sandbox. It has no VMs.
    Builder,
}

/// What a daemon is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it is there for.
    pub role: Role,
    /// Its directories.
    pub dirs: Dirs,
    /// What runs VMs.
    pub engine: EngineChoice,
    /// Who does what needs root.
    pub helper: HelperChoice,
    /// The agent's program; looked for beside bangerd when left out.
    pub agent: Option<PathBuf>,
    /// Its limits.
    pub limits: Limits,
}

/// What runs VMs.
#[derive(Debug, Clone)]
pub enum EngineChoice {
    /// The best that the host offers within the configuration.
    Host,
    /// This one.
    Fixed(Arc<dyn Engine>),
}

/// Who does what needs root.
#[derive(Debug, Clone)]
pub enum HelperChoice {
    /// Whoever the role, the configuration and the host make it.
    Host,
    /// This one, or nobody.
    Fixed(Option<Helper>),
}

/// Limits of a daemon.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a guest may take until its agent answers. Emulation on a busy machine is slow.
    pub boot: Duration,
    /// What must be free on the state's file system before a VM is made or started. Half of it stays
    /// free while VMs write.
    pub reserve: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(120),
            reserve: RESERVE,
        }
    }
}

impl Options {
    /// The daemon of a user with these directories, on this host.
    pub fn new(role: Role, dirs: Dirs) -> Self {
        Self {
            role,
            dirs,
            engine: EngineChoice::Host,
            helper: HelperChoice::Host,
            agent: None,
            limits: Limits::default(),
        }
    }
}
