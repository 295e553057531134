//! `banger vm`

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod exec_args;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod prune;
pub(crate) mod rename;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod set;
pub(crate) mod spec_args;
pub(crate) mod ssh;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod wait;

use super::{cp, events};
use crate::app::{App, segment};
use crate::error::{CliError, Kind};
use crate::time::age;
use crate::ui::progress::Progress;
use crate::ui::table::Tabular;
use banger_api::client::Client;
use banger_api::{Step, VmView};
use serde::Serialize;
use std::time::Duration;

/// Make, run, show and remove VMs
///
/// A VM is named by its name, its id or any unique prefix of the id.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Run(Box<run::Args>),
    Create(create::Args),
    Start(start::Args),
    Stop(stop::Args),
    Restart(restart::Args),
    Kill(kill::Args),
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(rm::Args),
    Prune(prune::Args),
    Rename(rename::Args),
    Set(set::Args),
    #[command(visible_aliases = ["ls", "ps"])]
    List(list::Args),
    Inspect(inspect::Args),
    Wait(wait::Args),
    Logs(logs::Args),
    Events(events::Args),
    Stats(stats::Args),
    Top(top::Args),
    Exec(exec::Args),
    Cp(cp::Args),
    Ssh(ssh::Args),
}

impl Command {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
        match self {
            Self::Run(args) => return args.run(app).await,
            Self::Exec(args) => return args.run(app).await,
            Self::Ssh(args) => return args.run(app).await,
            Self::Create(args) => args.run(app).await,
            Self::Start(args) => args.run(app).await,
            Self::Stop(args) => args.run(app).await,
            Self::Kill(args) => args.run(app).await,
            Self::Rm(args) => args.run(app).await,
            Self::Restart(args) => args.run(app).await,
            Self::Prune(args) => args.run(app).await,
            Self::Rename(args) => args.run(app).await,
            Self::Set(args) => args.run(app).await,
            Self::List(args) => args.run(app).await,
            Self::Inspect(args) => args.run(app).await,
            Self::Wait(args) => args.run(app).await,
            Self::Logs(args) => args.run(app).await,
            Self::Events(args) => args.run(app).await,
            Self::Stats(args) => args.run(app).await,
            Self::Top(args) => args.run(app).await,
            Self::Cp(args) => args.run(app).await,
        }?;
        Ok(0)
    }
}

impl Tabular for VmView {
    const HEADINGS: &'static [&'static str] = &[
        "NAME", "ID", "STATE", "IMAGE", "CPUS", "MEMORY", "DISK", "ADDRESS", "AGE",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match &self.exit {
            Some(exit) if self.engine.is_none() => {
                format!("{} ({})", self.state.as_str(), exit.reason)
            }
            _ if self.hung.is_some() => format!("{} (hung)", self.state.as_str()),
            _ => self.state.as_str().to_owned(),
        };
        vec![
            self.name.to_string(),
            self.id.to_string(),
            state,
            self.image.clone(),
            self.cpus.to_string(),
            self.memory.to_string(),
            format!("{}/{}", self.disk_used, self.disk),
            self.address
                .map_or_else(|| "-".to_owned(), |address| address.to_string()),
            age(self.created_unix_ms),
        ]
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// The path of one VM in the API.
pub(crate) fn path(vm: &str) -> String {
    format!("/v1/vms/{}", segment(vm))
}

/// Says that something which was changed waits for the VM's next start.
fn note_restart(app: &App, vm: &VmView) {
    if vm.needs_restart {
        app.ui.note(&format!(
            "{0} runs: the change takes effect at its next start (banger vm restart {0})",
            vm.name
        ));
    }
}

/// A duration as the API takes it.
fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Posts a request that ends with a VM, with progress.
pub(crate) async fn steps<B: Serialize>(
    app: &App,
    client: &Client,
    path: &str,
    request: &B,
    mut progress: Progress,
) -> Result<VmView, CliError> {
    let last = app
        .provisioned(client, &mut progress, async |progress| {
            let told = |step| progress.show(&step);
            client.steps(path, request, told).await
        })
        .await?;
    progress.finish();
    match last {
        Step::Vm(vm) => Ok(*vm),
        _ => Err(CliError::new(
            Kind::Internal,
            "wait for the VM: the daemon ended with something else",
        )),
    }
}
