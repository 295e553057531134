//! `banger system`

mod df;
mod info;
mod install;
mod restart;
mod status;
mod uninstall;

use crate::app::App;
use crate::error::{CliError, Kind};
use crate::system::health;
use crate::system::host::Host;
use banger_api::{Install, VmState, VmView};

/// Install banger's services, see how they stand, remove them
///
/// What is installed, and why it needs what it has: docs/privileges.md.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Install(install::Args),
    Status(status::Args),
    Restart(restart::Args),
    Uninstall(uninstall::Args),
    Df(df::Args),
    Info(info::Args),
}

impl Command {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
        match self {
            Self::Install(args) => args.run(app).await.map(|()| 0),
            Self::Status(args) => args.run(app).await,
            Self::Restart(args) => args.run(app).await.map(|()| 0),
            Self::Uninstall(args) => args.run(app).map(|()| 0),
            Self::Df(args) => args.run(app).await.map(|()| 0),
            Self::Info(args) => args.run(app).await.map(|()| 0),
        }
    }
}

/// Refuses anybody but root, with the command to type instead.
fn must_be_root(verb: &str) -> Result<(), CliError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // sudo has a path of its own.
    let exe = std::env::current_exe().ok();
    let place = exe.as_deref().and_then(|exe| exe.parent());
    let is_found = place.is_none_or(|dir| {
        ["/usr/local/bin", "/usr/bin", "/usr/lib/banger"]
            .iter()
            .any(|known| dir == std::path::Path::new(known))
    });
    let word = match exe {
        Some(exe) if !is_found => exe.display().to_string(),
        _ => "banger".to_owned(),
    };
    Err(CliError::new(
        Kind::Permission,
        format!("{verb} the services: only root can"),
    )
    .hint(format!("sudo {word} system {verb}")))
}

/// The installation, which must be there.
fn must_be_installed() -> Result<Install, CliError> {
    Install::read()?.ok_or_else(|| {
        CliError::new(Kind::NotFound, "find the installation: there is none")
            .hint("sudo banger system install")
    })
}

/// The names of the VMs that run, as the daemon says.
async fn running(install: &Install) -> Result<Vec<String>, CliError> {
    let vms: Vec<VmView> = health::ask(install).get("/v1/vms").await?;
    let mut names: Vec<String> = vms
        .into_iter()
        .filter(|vm| vm.state == VmState::Running && !vm.ephemeral)
        .map(|vm| vm.name.to_string())
        .collect();
    names.sort();
    Ok(names)
}

/// This host.
fn host() -> Host {
    Host::here()
}
