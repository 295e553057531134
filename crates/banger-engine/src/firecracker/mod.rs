//! Firecracker as an engine, unjailed, as the user.
//!
//! The machine is told in one file and runs at once; the API is for what comes later. In the
//! run directory, which is also its working directory, are `machine.json`, the API's socket
//! `api.sock`, the agent's `vsock.sock`, and two FIFOs: `console.fifo`, to which the guest's
//! serial console goes by way of Firecracker's standard output, and `vmm.fifo` for its log.
//! Firecracker's ends of those never block and keep a reader open themselves: while no daemon
//! reads, a guest goes on undisturbed, and what they can hold is there for the next daemon.

mod api;
mod config;
mod faults;
mod find;
mod huge;
mod launch;
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

/// Why a VM with a network cannot be had.
pub(crate) const NO_NETWORK: &str = "it has no network without root";

/// Firecracker, found and chosen.
#[derive(Debug)]
pub(crate) struct Firecracker {
    program: PathBuf,
    version: Version,
}

impl Firecracker {
    pub(crate) fn new(found: Found) -> Self {
        Self {
            program: found.path,
            version: found.version,
        }
    }
}

#[async_trait]
impl Engine for Firecracker {
    fn kind(&self) -> EngineKind {
        EngineKind::Firecracker
    }

    fn describe(&self) -> String {
        format!("Firecracker {}, KVM", self.version)
    }

    fn guest_modules(&self) -> &'static [&'static str] {
        &[
            "virtio_mmio",
            "virtio_blk",
            "vmw_vsock_virtio_transport",
            "virtio_rng",
        ]
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
        spec.check()?;
        Ok(Box::new(launch::start(&self.program, spec, place).await?))
    }

    async fn adopt(
        &self,
        process: &ProcessId,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError> {
        Ok(Box::new(launch::adopt(process, place).await?))
    }
}
