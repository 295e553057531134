//! `banger vm rename`

use super::path;
use crate::app::App;
use crate::completion;
use crate::error::CliError;
use banger_api::{RenameVm, VmView};
use banger_names::VmName;
use clap_complete::ArgValueCandidates;

/// Give a VM another name
///
/// At once on the host, where `NEW.vm` then names it; a guest that runs keeps its host name until
/// its next start.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The VM, by name, id or unique prefix of the id
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::vms))]
    vm: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    name: VmName,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let request = RenameVm { name: self.name };
        let vm: VmView = client
            .post(&format!("{}/rename", path(&self.vm)), &request)
            .await?;
        super::note_restart(app, &vm);
        app.ui.done(&vm)
    }
}
