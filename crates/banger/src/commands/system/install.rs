//! `banger system install`

use super::{host, must_be_root};
use crate::app::App;
use crate::commands::doctor::findings;
use crate::error::{CliError, Kind};
use crate::system::host::Host;
use crate::system::owner::{self, OwnerFacts};
use crate::system::service::{self, Before};
use crate::system::steps::{Carried, Content, Step};
use crate::system::{checks, health, plan, programs};
use banger_api::{CheckStatus, Install};
use clap::ValueHint;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Install two services: a daemon that runs as you, and its narrow root helper
///
/// Type it with sudo, as the user whose VMs it will be. VMs then run under Firecracker and its
/// jailer, each with a uid, a control group and a network address of its own. Installing again
/// repairs or upgrades; VMs that run go on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The user whose VMs it will be; the one who typed sudo when left out
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Username)]
    owner: Option<String>,
    /// Where firecracker and jailer are; /usr/local/bin and PATH when left out
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    firecracker: Option<PathBuf>,
    /// Show every step and every file, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        must_be_root("install")?;
        // Whatever sudo passed on: what is made here has the modes that are written here.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let host = host();
        let owner = owner::find(&host, self.owner)?;
        let there = Install::read().or_else(|error| {
            // A record that cannot be used is written anew.
            app.ui.note(&error.to_string());
            Ok::<_, CliError>(None)
        })?;
        let own = std::env::current_exe()
            .map_err(|source| CliError::io("find banger's own program", &source))?;
        let own = own.parent().unwrap_or(Path::new("/"));
        let (found, missing) = programs::find(&host, own, self.firecracker.as_deref());
        check(app, &host, &owner, &found, &missing, there.as_ref())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let steps = plan::install(&owner, &found, there.as_ref(), now)?;
        if self.dry_run {
            return show(app, &host, &steps);
        }
        let changes = carry_out(app, &host, &steps).await?;
        let version = env!("CARGO_PKG_VERSION");
        if app.ui.json {
            return app.ui.json(&serde_json::json!({
                "version": version, "owner": owner.name, "changes": changes,
            }));
        }
        if changes.is_empty() {
            app.ui.note("nothing to change");
        }
        app.ui.text(&format!(
            "banger {version} is installed for {}\n",
            owner.name
        ))
    }
}

/// Refuses a host that cannot be installed on, with all that is in the way.
fn check(
    app: &App,
    host: &Host,
    owner: &OwnerFacts,
    found: &[programs::Program],
    missing: &[&'static str],
    there: Option<&Install>,
) -> Result<(), CliError> {
    let checks = checks::examine(host, owner, found, missing, there);
    let (text, [_, _, failed]) = findings(&checks, !app.ui.verbose);
    if !text.is_empty() {
        app.ui.note(text.trim_end());
    }
    if failed == 0 {
        return Ok(());
    }
    let first = checks
        .into_iter()
        .find(|check| check.status == CheckStatus::Failed);
    let mut error = CliError::new(
        Kind::HostUnsupported,
        format!("install on this host: {failed} of the checks failed, nothing was changed"),
    );
    if let Some(check) = first {
        error.causes.push(check.message);
        error.hint = check.fix;
    }
    Err(error)
}

/// Shows what would be done.
fn show(app: &App, host: &Host, steps: &[Step]) -> Result<(), CliError> {
    let mut out = String::new();
    for step in steps {
        let mark = if step.is_done(host)? {
            "as is"
        } else {
            "  new"
        };
        out.push_str(&format!("{mark}  {}\n", step.describe()));
        if let Step::File {
            content: Content::Text(text),
            ..
        } = step
        {
            for line in text.lines() {
                out.push_str(&format!("       | {line}\n"));
            }
        }
    }
    out.push_str(
        "       systemctl enable, daemon-reload and start bangerd-root.socket and bangerd\n",
    );
    app.ui.text(&out)
}

/// Carries the steps out and brings the services up, or undoes all of it. Gives what was changed.
async fn carry_out(app: &App, host: &Host, steps: &[Step]) -> Result<Vec<String>, CliError> {
    let before = Before::look(host);
    let mut carried = Carried::none(host);
    let mut changes = Vec::new();
    let result = async {
        for step in steps {
            if carried.carry_out(step)? {
                app.ui.detail(&step.describe());
                changes.push(step.describe());
            }
        }
        if changes.is_empty() && before.is_up() {
            return Ok(());
        }
        app.ui.detail("start the services");
        changes.push("start the services".to_owned());
        service::bring_up(host)?;
        verify().await
    }
    .await;
    let Err(mut error) = result else {
        carried.keep()?;
        return Ok(changes);
    };
    app.ui.note("undoing what was done");
    let mut left = service::withdraw(host, &before);
    left.extend(carried.undo());
    left.extend(service::put_back(host, &before));
    if left.is_empty() {
        error.causes.push("all that was done is undone".to_owned());
    }
    error.causes.extend(left);
    Err(error)
}

/// Asks the new daemon for its version.
async fn verify() -> Result<(), CliError> {
    let install = super::must_be_installed()?;
    let daemon = health::version(&install).await?;
    if daemon.version == env!("CARGO_PKG_VERSION") {
        return Ok(());
    }
    Err(CliError::new(
        Kind::Verification,
        format!(
            "verify the installation: the daemon that answers is {}",
            daemon.version
        ),
    ))
}
