//! `banger vm wait`

use super::path;
use crate::app::App;
use crate::commands::for_each;
use crate::completion;
use crate::error::CliError;
use banger_api::VmView;
use banger_names::parse_duration;
use clap_complete::ArgValueCandidates;
use std::time::Duration;

/// Wait until VMs have stopped, run or are gone
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to wait for
    #[arg(long, value_name = "STATE", default_value = "stopped")]
    until: Until,
    /// Give up after so long, with exit code 1
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The VMs, by name, id or unique prefix of the id
    #[arg(value_name = "VM", required = true, add = ArgValueCandidates::new(completion::vms))]
    vms: Vec<String>,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Until {
    /// It no longer runs
    Stopped,
    /// Its agent answers
    Running,
    /// It is gone
    Removed,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let until = match self.until {
            Until::Stopped => "stopped",
            Until::Running => "running",
            Until::Removed => "removed",
        };
        let mut query = format!("until={until}");
        if let Some(timeout) = self.timeout {
            query.push_str(&format!("&timeout_ms={}", timeout.as_millis()));
        }
        for_each(app, &self.vms, async |name| {
            let vm: VmView = client.get(&format!("{}/wait?{query}", path(name))).await?;
            Ok(vm)
        })
        .await
    }
}
