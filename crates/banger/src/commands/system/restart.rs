//! `banger system restart`

use super::{host, must_be_installed, must_be_root, running};
use crate::app::App;
use crate::error::{CliError, Kind};
use crate::system::service;

/// Restart both services; VMs that run go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        must_be_root("restart")?;
        let install = must_be_installed()?;
        // A daemon that does not answer is a reason to restart it.
        let before = running(&install).await.unwrap_or_default();
        service::bring_up(&host())?;
        let after = running(&install).await?;
        let lost: Vec<String> = before
            .into_iter()
            .filter(|name| !after.contains(name))
            .collect();
        if !lost.is_empty() {
            return Err(CliError::new(
                Kind::Failed,
                format!("restart the services: {} no longer run", lost.join(", ")),
            )
            .hint("banger vm list"));
        }
        app.ui
            .note(&format!("restarted; {} VMs run as before", after.len()));
        Ok(())
    }
}
