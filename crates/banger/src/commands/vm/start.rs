//! `banger vm start`

use super::{path, steps};
use crate::app::App;
use crate::commands::for_each;
use crate::completion;
use crate::error::CliError;
use banger_api::{StartVm, VmState, VmView};
use banger_names::parse_duration;
use clap_complete::ArgValueCandidates;
use std::time::Duration;

/// Start VMs, and wait until their agents answer
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Give up after so long, with exit code 124: the VM is then off again
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The VMs, by name, id or unique prefix of the id
    #[arg(value_name = "VM", required = true, add = ArgValueCandidates::new(completion::vms))]
    vms: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let request = StartVm {
            timeout_ms: self.timeout.map(super::in_ms),
        };
        for_each(app, &self.vms, async |name| {
            let path = path(name);
            let before: VmView = client.get(&path).await?;
            if before.state == VmState::Running {
                app.ui.note(&format!("{} is running already", before.name));
                return Ok(before);
            }
            let path = format!("{path}/start");
            let started = steps(app, &client, &path, &request, app.ui.work()).await;
            started.map_err(|error| error.of_deadline(self.timeout))
        })
        .await
    }
}
