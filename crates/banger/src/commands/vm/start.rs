//! `banger vm start`

use super::{path, steps};
use crate::app::App;
use crate::commands::for_each;
use crate::completion;
use crate::error::CliError;
use banger_api::{VmState, VmView};
use clap_complete::ArgValueCandidates;
use serde_json::json;

/// Start VMs, and wait until their agents answer
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
            let path = path(name);
            let before: VmView = client.get(&path).await?;
            if before.state == VmState::Running {
                app.ui.note(&format!("{} is running already", before.name));
                return Ok(before);
            }
            steps(
                app,
                &client,
                &format!("{path}/start"),
                &json!({}),
                app.ui.work(),
            )
            .await
        })
        .await
    }
}
