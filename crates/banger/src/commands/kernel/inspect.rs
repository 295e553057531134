//! `banger kernel inspect`

use super::path;
use crate::app::App;
use crate::commands::ShowArgs;
use crate::completion;
use crate::error::CliError;
use banger_api::KernelView;
use clap_complete::ArgValueCandidates;

/// Show one kernel in full
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The kernel, by name or digest
    #[arg(value_name = "KERNEL", add = ArgValueCandidates::new(completion::kernels))]
    kernel: String,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let kernel: KernelView = app.client().await?.get(&path(&self.kernel)).await?;
        app.ui.inspect(&kernel, self.show.format.as_ref())
    }
}
