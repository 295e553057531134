//! `banger vm list`

use crate::app::App;
use crate::commands::ShowArgs;
use crate::error::CliError;
use crate::filter::Filters;
use banger_api::VmView;

/// List all VMs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let mut vms = all(app).await?;
        vms.retain(|vm| self.filters.fits(vm));
        app.ui.list(&vms, self.show.format.as_ref())
    }
}

/// All VMs.
pub(crate) async fn all(app: &App) -> Result<Vec<VmView>, CliError> {
    Ok(app.client().await?.get("/v1/vms").await?)
}
