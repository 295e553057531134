//! `banger ps`

use super::{ShowArgs, vm};
use crate::app::App;
use crate::error::CliError;
use crate::filter::Filters;
use banger_api::{VmState, VmView};

/// List running VMs
///
/// A filter by state looks at all VMs, as --all does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List all VMs, not only those that run
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let mut vms = vm::list::all(app).await?;
        vms.retain(|vm| {
            (self.all || self.filters.by_state() || is_live(vm)) && self.filters.fits(vm)
        });
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
