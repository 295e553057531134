//! `banger vm restart`

use super::{path, steps};
use crate::app::App;
use crate::commands::for_each;
use crate::completion;
use crate::error::CliError;
use banger_api::StopVm;
use banger_names::parse_duration;
use clap_complete::ArgValueCandidates;
use std::time::Duration;

/// Stop VMs that run and start them, and wait until their agents answer
///
/// What `vm set` and `vm rename` have changed takes effect. A VM that does not run is started.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long a guest may take to stop before it is forced; 10s when left out
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The VMs, by name, id or unique prefix of the id
    #[arg(value_name = "VM", required = true, add = ArgValueCandidates::new(completion::vms))]
    vms: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let request = StopVm {
            timeout_ms: self.timeout.map(super::in_ms),
        };
        for_each(app, &self.vms, async |name| {
            let path = format!("{}/restart", path(name));
            steps(app, &client, &path, &request, app.ui.work()).await
        })
        .await
    }
}
