//! `banger ps`

use super::{ShowArgs, vm};
use crate::app::App;
use crate::error::CliError;
use banger_api::{VmState, VmView};

/// List running VMs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List all VMs, not only those that run
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let mut vms = vm::list::all(app).await?;
        vms.retain(|vm| self.all || is_live(vm));
        app.ui.list(&vms, self.show.format.as_ref())
    }
}

/// Whether a VMM runs for it, or is about to or no longer.
fn is_live(vm: &VmView) -> bool {
    matches!(
        vm.state,
        VmState::Starting | VmState::Running | VmState::Stopping
    )
}
