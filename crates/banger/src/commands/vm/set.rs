//! `banger vm set`

use super::path;
use crate::app::App;
use crate::completion;
use crate::error::CliError;
use banger_api::{RestartPolicy, SetVm, VmView};
use banger_names::{ByteSize, parse_duration};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use std::time::Duration;

/// Change a VM
///
/// Labels, restart policy and time limit change at once. CPUs and memory of a VM that runs change with its next start, which is
/// then said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    changes: Changes,
    /// The VM, by name, id or unique prefix of the id
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::vms))]
    vm: String,
}

/// What is changed: at least one thing.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// Virtual CPUs
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// Memory, as 2G; a bare number is MiB
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Set a label, or remove it with KEY= alone; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, Option<String>)>,
    /// When it is started again after it ended by itself: no, on-failure, on-failure:N or always
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,
    /// Stop it when it has run for so long, counted from now on as by `vm create --ttl`; 0 for never
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let request = SetVm {
            cpus: self.changes.cpus,
            memory: self.changes.memory,
            labels: self.changes.labels.into_iter().collect(),
            restart: self.changes.restart,
            ttl_ms: self.changes.ttl.map(super::in_ms),
        };
        let path = path(&self.vm);
        let vm: VmView = client.call(Method::PATCH, &path, Some(&request)).await?;
        super::note_restart(app, &vm);
        app.ui.done(&vm)
    }
}

fn parse_label(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = (!value.is_empty()).then(|| value.to_owned());
            Ok((key.to_owned(), value))
        }
        _ => Err("a label has the form KEY=VALUE, or KEY= to remove it".into()),
    }
}
