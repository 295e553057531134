//! `banger vm rm`

use super::path;
use crate::app::App;
use crate::commands::{ConsentArgs, for_each};
use crate::completion;
use crate::error::CliError;
use banger_api::{VmState, VmView};
use clap_complete::ArgValueCandidates;

/// Remove VMs with their disks
///
/// Asks before it kills a VM that runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kill VMs that run, without asking
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    consent: ConsentArgs,
    /// The VMs, by name, id or unique prefix of the id
    #[arg(value_name = "VM", required = true, add = ArgValueCandidates::new(completion::vms))]
    vms: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        for_each(app, &self.vms, async |name| {
            let vm: VmView = client.get(&path(name)).await?;
            if self.consent.dry_run {
                return Ok(vm);
            }
            let is_at_rest = matches!(
                vm.state,
                VmState::Created | VmState::Stopped | VmState::Crashed | VmState::Removing
            );
            if !is_at_rest && !self.force && !self.consent.yes {
                app.ui.confirm(
                    &format!(
                        "kill and remove VM {}, which is {}",
                        vm.name,
                        vm.state.as_str()
                    ),
                    &format!("banger vm rm --force {}", vm.name),
                )?;
            }
            // The id: what was asked about is what is removed, whatever has its name by now.
            let path = format!("{}?force={}", path(vm.id.as_str()), !is_at_rest);
            Ok(client.delete(&path).await?)
        })
        .await
    }
}
