//! `banger vm inspect`

use super::path;
use crate::app::App;
use crate::commands::ShowArgs;
use crate::completion;
use crate::error::CliError;
use banger_api::VmView;
use clap_complete::ArgValueCandidates;

/// Show one VM in full
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The VM, by name, id or unique prefix of the id
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::vms))]
    vm: String,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let vm: VmView = app.client().await?.get(&path(&self.vm)).await?;
        app.ui.inspect(&vm, self.show.format.as_ref())
    }
}
