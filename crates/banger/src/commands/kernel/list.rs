//! `banger kernel ls`

use crate::app::App;
use crate::commands::ShowArgs;
use crate::error::CliError;
use banger_api::KernelView;

/// List kernels
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let kernels: Vec<KernelView> = app.client().await?.get("/v1/kernels").await?;
        app.ui.list(&kernels, self.show.format.as_ref())
    }
}
