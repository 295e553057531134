//! The helper's jails, as the engine wants them.

use super::Helper;
use async_trait::async_trait;
use banger_engine::{Jail, JailError, JailFile, JailRole, JailSockets};
use banger_guest::frame::READY_PORT;
use banger_names::VmRef;
use banger_priv::{FileRole, Launch, jail};
use std::os::fd::OwnedFd;

/// The jail of one start of a VM.
#[derive(Debug)]
pub(crate) struct VmJail {
    helper: Helper,
    vm: VmRef,
}

impl VmJail {
    /// The jail of this VM.
    pub(crate) fn new(helper: Helper, vm: VmRef) -> Self {
        Self { helper, vm }
    }
}

#[async_trait]
impl Jail for VmJail {
    fn path(&self, role: JailRole) -> String {
        match role {
            JailRole::Kernel => jail::KERNEL.to_owned(),
            JailRole::Initrd => jail::INITRD.to_owned(),
            JailRole::Machine => jail::MACHINE.to_owned(),
            JailRole::ReadOnlyDisk(number) | JailRole::Disk(number) => jail::disk(number),
            JailRole::Console => "/dev/stdout".to_owned(),
            JailRole::Log => jail::LOG.to_owned(),
            JailRole::Ready => jail::host_port(READY_PORT),
        }
    }

    fn root_path(&self) -> String {
        jail::ROOTFS.to_owned()
    }

    fn vsock_path(&self) -> String {
        jail::VSOCK_SOCKET.to_owned()
    }

    async fn launch(
        &self,
        files: Vec<JailFile>,
        cpus: u32,
        mem_mib: u32,
    ) -> Result<OwnedFd, JailError> {
        let launch = Launch {
            vm: self.vm.clone(),
            cpus: u8::try_from(cpus)?,
            memory_mib: mem_mib,
            files: files.iter().map(|file| role(file.role)).collect(),
        };
        let files = files.into_iter().map(|file| file.file).collect();
        Ok(self.helper.launch(launch, files).await?)
    }

    async fn sockets(&self) -> Result<Option<JailSockets>, JailError> {
        let sockets = self.helper.sockets(&self.vm).await?;
        Ok(sockets.map(|[api, vsock, process]| JailSockets {
            api,
            vsock,
            process,
        }))
    }

    async fn kill(&self) -> Result<(), JailError> {
        Ok(self.helper.kill(&self.vm).await?)
    }

    async fn clean_up(&self) -> Result<Option<u8>, JailError> {
        Ok(self.helper.clean_up(&self.vm).await?)
    }
}

fn role(role: JailRole) -> FileRole {
    match role {
        JailRole::Kernel => FileRole::Kernel,
        JailRole::Initrd => FileRole::Initrd,
        JailRole::Machine => FileRole::Machine,
        JailRole::ReadOnlyDisk(number) => FileRole::ReadOnlyDisk(number),
        JailRole::Disk(number) => FileRole::Disk(number),
        JailRole::Console => FileRole::Console,
        JailRole::Log => FileRole::Log,
        JailRole::Ready => FileRole::Ready,
    }
}
