//! QEMU as an engine: `qemu-system-x86_64`, by KVM where it works, else by emulation.
//!
//! A machine is a q35 without firmware menus or legacy toys: the ELF kernel is entered
//! directly (PVH), disks, network, entropy and the agent's port are virtio on PCI. Three
//! Unix sockets are made by us and inherited by QEMU: `agent.sock` (the agent's port),
//! `qmp.sock` (QEMU's monitor) and `console.sock` (the serial console).

mod args;
mod find;
mod launch;
mod link;
mod machine;
mod qmp;

use std::path::PathBuf;

use async_trait::async_trait;
use banger_guest::boot::{Channel, Network};

use crate::program::{Found, Version};
use crate::{
    Accel, Engine, EngineError, EngineKind, Machine, MachineSpec, NetworkMode, Place, ProcessId,
};

pub(crate) use find::{OLDEST, find};
pub(crate) use launch::adopt;

/// The name of the virtio-serial port that the agent serves.
const PORT_NAME: &str = "banger.agent";

/// QEMU, found and chosen.
#[derive(Debug)]
pub(crate) struct Qemu {
    program: PathBuf,
    version: Version,
    accel: Accel,
    /// Why emulation was chosen, or with KVM not Firecracker; may be empty there.
    why: String,
    /// The firmware to pass by `-bios`, where the faster one is installed.
    firmware: Option<PathBuf>,
}

impl Qemu {
    pub(crate) fn new(found: Found, accel: Accel, why: String) -> Self {
        let firmware = match accel {
            Accel::Tcg => find::qboot(),
            // SeaBIOS costs next to nothing there, and is what everybody runs with KVM.
            Accel::Kvm => None,
        };
        Self {
            program: found.path,
            version: found.version,
            accel,
            why,
            firmware,
        }
    }
}

/// Why a VM with a tap cannot be had.
pub(crate) const NO_TAP: &str = "QEMU is not given a tap: it runs unjailed";

#[async_trait]
impl Engine for Qemu {
    fn kind(&self) -> EngineKind {
        EngineKind::Qemu
    }

    fn describe(&self) -> String {
        match self.accel {
            Accel::Kvm if self.why.is_empty() => format!("QEMU {}, KVM", self.version),
            Accel::Kvm => format!("QEMU {}, KVM ({})", self.version, self.why),
            Accel::Tcg => format!("QEMU {}, emulation (TCG): {}", self.version, self.why),
        }
    }

    fn guest_modules(&self, _: NetworkMode) -> Vec<&'static str> {
        vec![
            "virtio_pci",
            "virtio_blk",
            "virtio_console",
            "virtio_net",
            "virtio_rng",
        ]
    }

    fn guest_network(&self, mode: NetworkMode) -> Option<Network> {
        match mode {
            NetworkMode::None | NetworkMode::Nat => None,
            NetworkMode::User => Some(Network {
                address: "10.0.2.15/24".into(),
                gateway: "10.0.2.2".into(),
                dns: vec!["10.0.2.3".into()],
            }),
        }
    }

    fn channel(&self) -> Channel {
        Channel::VirtioSerial {
            name: PORT_NAME.into(),
        }
    }

    fn drive_device(&self, index: usize) -> String {
        crate::spec::virtio_disk(index)
    }

    async fn start(
        &self,
        spec: &MachineSpec,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError> {
        spec.check(None)?;
        if spec.network == NetworkMode::Nat {
            return Err(EngineError::Spec(NO_TAP.into()));
        }
        let args = args::build(self.accel, self.firmware.as_deref(), spec);
        Ok(Box::new(launch::start(&self.program, args, place).await?))
    }

    async fn adopt(
        &self,
        process: &ProcessId,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError> {
        Ok(Box::new(launch::adopt(process, place).await?))
    }
}
