//! Firecracker as an engine: unjailed, as the user, or in a [`crate::Jail`].
//!
//! The machine is told in one file and runs at once; the API is for what comes later. In the
//! run directory, which is also its working directory, are `machine.json`, the API's socket
//! `api.sock`, the agent's `vsock.sock`, and two FIFOs: `console.fifo`, to which the guest's
//! serial console goes by way of Firecracker's standard output, and `vmm.fifo` for its log.
//! Firecracker's ends of those never block and keep a reader open themselves: while no daemon
//! reads, a guest goes on undisturbed, and what they can hold is there for the next daemon.
//!
//! In a jail ([`jailed`]) the same files are opened here and shown there; what Firecracker makes
//! itself, its two sockets, is handed back as open files.

mod api;
mod config;
mod faults;
mod find;
mod huge;
mod jailed;
mod launch;
mod locks;
mod machine;
#[cfg(test)]
mod tests;
mod vsock;

use std::path::PathBuf;

use async_trait::async_trait;
use banger_guest::boot::{Channel, Network};
use banger_guest::frame::AGENT_PORT;

use crate::program::{Found, Version};
use crate::{Engine, EngineError, EngineKind, Machine, MachineSpec, NetworkMode, Place, ProcessId};

pub(crate) use faults::of as faults_of;
pub(crate) use find::find;
pub(crate) use launch::adopt;

/// Why a VM with a network cannot be had where there is no jail.
pub(crate) const NO_NETWORK: &str = "it has no network without root";

/// Why a VM cannot have this network.
pub(crate) const NO_USER_NETWORK: &str = "it has no user-mode network";

/// Firecracker, found and chosen.
#[derive(Debug)]
pub(crate) struct Firecracker {
    /// Ours; in a jail, the jail's own.
    program: Option<PathBuf>,
    /// Its version, as far as we can see it.
    version: Option<Version>,
}

impl Firecracker {
    pub(crate) fn new(found: Found) -> Self {
        Self {
            program: Some(found.path),
            version: Some(found.version),
        }
    }

    /// One that runs in jails only.
    pub(crate) fn jailed(version: Option<Version>) -> Self {
        Self {
            program: None,
            version,
        }
    }
}

#[async_trait]
impl Engine for Firecracker {
    fn kind(&self) -> EngineKind {
        EngineKind::Firecracker
    }

    fn describe(&self) -> String {
        let version = self.version.map(|version| format!(" {version}"));
        let jailed = if self.program.is_none() {
            ", jailed"
        } else {
            ""
        };
        format!("Firecracker{}, KVM{jailed}", version.unwrap_or_default())
    }

    fn guest_modules(&self, network: NetworkMode) -> Vec<&'static str> {
        let mut modules = vec![
            "virtio_mmio",
            "virtio_blk",
            "vmw_vsock_virtio_transport",
            "virtio_rng",
        ];
        if network != NetworkMode::None {
            modules.push("virtio_net");
        }
        modules
    }

    fn guest_network(&self, _: NetworkMode) -> Option<Network> {
        None
    }

    fn channel(&self) -> Channel {
        Channel::Vsock { port: AGENT_PORT }
    }

    fn drive_device(&self, index: usize) -> String {
        crate::spec::virtio_disk(index)
    }

    async fn start(
        &self,
        spec: &MachineSpec,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError> {
        spec.check(place.jail.as_ref())?;
        Ok(Box::new(match (&self.program, &place.jail) {
            (Some(program), None) => launch::start(program, spec, place).await?,
            (None, Some(jail)) => jailed::start(jail, spec, place).await?,
            (Some(_), Some(_)) | (None, None) => {
                return Err(EngineError::Spec(
                    "its jail is there and not wanted, or wanted and not there".into(),
                ));
            }
        }))
    }

    async fn adopt(
        &self,
        process: &ProcessId,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError> {
        Ok(Box::new(launch::adopt(process, place).await?))
    }
}
