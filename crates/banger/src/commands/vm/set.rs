//! `banger vm set`

use super::path;
use crate::app::App;
use crate::completion;
use crate::error::CliError;
use banger_api::{SetVm, VmView};
use banger_names::ByteSize;
use clap_complete::ArgValueCandidates;
use hyper::Method;

/// Change a VM
///
/// Labels change at once. CPUs and memory of a VM that runs change with its next start, which is
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
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let request = SetVm {
            cpus: self.changes.cpus,
            memory: self.changes.memory,
            labels: self.changes.labels.into_iter().collect(),
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
