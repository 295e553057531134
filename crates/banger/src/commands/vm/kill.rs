//! `banger vm kill`

use super::path;
use crate::app::App;
use crate::commands::for_each;
use crate::completion;
use crate::error::CliError;
use banger_api::VmView;
use clap_complete::ArgValueCandidates;
use serde_json::json;

/// End VMs at once, as if the power failed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The VMs, by name, id or unique prefix of the id
    #[arg(value_name = "VM", required = true, add = ArgValueCandidates::new(completion::vms))]
    vms: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        for_each(app, &self.vms, async |name| {
            let killed: VmView = client
                .post(&format!("{}/kill", path(name)), &json!({}))
                .await?;
            Ok(killed)
        })
        .await
    }
}
