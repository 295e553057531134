//! `banger ssh-proxy`: what ssh runs to reach a VM.

use super::vm;
use crate::app::{App, segment};
use crate::error::{CliError, Kind};
use crate::session;
use crate::ssh::SUFFIX;
use banger_api::{SshView, VmState};

/// Join standard input and output to a VM's sshd, as ssh's ProxyCommand
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The VM, as NAME or NAME.vm
    #[arg(value_name = "NAME")]
    name: String,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let name = self.name.strip_suffix(SUFFIX).unwrap_or(&self.name);
        let client = app.client().await?;
        let path = vm::path(name);
        require_running(&client.get(&path).await?)?;
        // This also makes and pins the VM's host key before ssh asks for it.
        let _view: SshView = client.get(&format!("{path}/ssh")).await?;
        let stream = client
            .upgrade(
                &format!("/v1/vms/{}/ssh", segment(name)),
                &serde_json::json!({}),
            )
            .await?;
        session::relay::run(stream).await
    }
}

/// Says what to do about a VM that ssh cannot reach.
pub(crate) fn require_running(vm: &banger_api::VmView) -> Result<(), CliError> {
    if matches!(vm.state, VmState::Running | VmState::Starting) {
        return Ok(());
    }
    Err(CliError::new(
        Kind::Conflict,
        format!(
            "ssh to {}: it is {}, not running",
            vm.name,
            vm.state.as_str()
        ),
    )
    .hint(format!("banger vm start {}", vm.name)))
}
