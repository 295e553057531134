//! `banger vm stats`

use super::path;
use crate::app::App;
use crate::commands::ShowArgs;
use crate::completion;
use crate::error::CliError;
use crate::ui::table;
use crate::usage::{Meter, Usage};
use banger_api::StatsView;
use banger_api::client::Client;
use clap_complete::ArgValueCandidates;
use std::io::IsTerminal;
use std::time::Duration;

/// How long lies between two readings.
const STEP: Duration = Duration::from_secs(1);

/// Show what VMs use: CPU, memory, disk, network
///
/// Once a second until it is interrupted. CPU is in percent of one CPU; disk and network are sums
/// since the VM was started. Network is known with network nat.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    #[command(flatten)]
    show: ShowArgs,
    /// The VMs, by name, id or unique prefix of the id; all that run when left out
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::vms))]
    vms: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let mut meter = Meter::default();
        meter.read(read(&client, &self.vms).await?);
        let mut shown = 0;
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + STEP, STEP);
        loop {
            tick.tick().await;
            let usage = meter.read(read(&client, &self.vms).await?);
            self.show(app, &usage, &mut shown)?;
            if self.no_stream {
                return Ok(());
            }
        }
    }

    fn show(&self, app: &App, usage: &[Usage], shown: &mut usize) -> Result<(), CliError> {
        if self.no_stream {
            return app.ui.list(usage, self.show.format.as_ref());
        }
        if app.ui.json {
            return app.ui.json_line(&usage);
        }
        if app.ui.quiet || self.show.format.is_some() || !std::io::stdout().is_terminal() {
            return app.ui.list(usage, self.show.format.as_ref());
        }
        // Over the table of a second ago.
        let back = match *shown {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        };
        let table = table::render(usage);
        *shown = table.lines().count();
        app.ui.text(&(back + &table))
    }
}

/// The counters of these VMs, or of all that run.
pub(super) async fn read(client: &Client, vms: &[String]) -> Result<Vec<StatsView>, CliError> {
    if vms.is_empty() {
        return Ok(client.get("/v1/stats").await?);
    }
    let mut all = Vec::new();
    for vm in vms {
        all.push(client.get(&format!("{}/stats", path(vm))).await?);
    }
    Ok(all)
}
