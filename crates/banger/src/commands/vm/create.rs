//! `banger vm create`

use super::spec_args::SpecArgs;
use super::steps;
use crate::app::App;
use crate::error::CliError;
use banger_api::CreateVm;
use banger_names::{VmName, parse_duration};
use std::time::Duration;

/// Make a VM that stays
///
/// Kernel and image are got first if they are the defaults and missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The VM's name; made up when left out
    #[arg(value_name = "NAME")]
    name: Option<VmName>,
    /// The same, as a flag
    #[arg(
        long = "name",
        id = "name_flag",
        value_name = "NAME",
        conflicts_with = "name"
    )]
    name_flag: Option<VmName>,
    /// Start it too
    #[arg(long)]
    start: bool,
    /// With --start: give up when it does not run after so long, with exit code 124; the VM is
    /// then not made
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration, requires = "start")]
    timeout: Option<Duration>,
    #[command(flatten)]
    spec: SpecArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let request = CreateVm {
            vm: self.spec.spec(self.name.or(self.name_flag), None)?,
            start: self.start,
            timeout_ms: self.timeout.map(super::in_ms),
        };
        let client = app.client().await?;
        let vm = steps(app, &client, "/v1/vms", &request, app.ui.work())
            .await
            .map_err(|error| error.of_deadline(self.timeout))?;
        app.ui.done(&vm)
    }
}
