//! `banger vm wait`

use super::path;
use crate::app::App;
use crate::commands::for_each;
use crate::completion;
use crate::error::CliError;
use banger_api::VmView;
use banger_names::parse_duration;
use clap_complete::ArgValueCandidates;
use std::time::{Duration, Instant};

/// Wait until VMs have stopped, run, crashed or are gone, or something in them listens on a port
///
/// Exits with 124 when the time is up.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The state to wait for
    #[arg(long, alias = "until", value_name = "STATE", default_value = "stopped")]
    state: State,
    /// Wait until something in the VM listens on this TCP port, on whatever address. Needs no
    /// network and connects to nothing
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "state")]
    port: Option<u16>,
    /// Give up after so long
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The VMs, by name, id or unique prefix of the id
    #[arg(value_name = "VM", required = true, add = ArgValueCandidates::new(completion::vms))]
    vms: Vec<String>,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum State {
    /// It does not run, for whatever reason
    Stopped,
    /// Its agent answers
    Running,
    /// It ended by itself, or could not start
    Crashed,
    /// It is gone
    Removed,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let state = match self.state {
            State::Stopped => "stopped",
            State::Running => "running",
            State::Crashed => "crashed",
            State::Removed => "removed",
        };
        let query = match self.port {
            Some(port) => format!("port={port}"),
            None => format!("until={state}"),
        };
        let since = Instant::now();
        for_each(app, &self.vms, async |name| -> Result<VmView, CliError> {
            let mut query = query.clone();
            if let Some(timeout) = self.timeout {
                // The time is for all of them together.
                let left = timeout.saturating_sub(since.elapsed());
                query.push_str(&format!("&timeout_ms={}", left.as_millis()));
            }
            let waited = client.get(&format!("{}/wait?{query}", path(name))).await;
            waited.map_err(|error| CliError::from(error).of_deadline(self.timeout))
        })
        .await
    }
}
