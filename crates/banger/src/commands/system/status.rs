//! `banger system status`

use super::host;
use crate::app::App;
use crate::commands::doctor::findings;
use crate::error::CliError;
use crate::system::health;
use crate::time::age;
use crate::ui::sanitize;
use banger_api::{CheckStatus, Install};
use serde_json::json;

/// Show what is installed, whether it runs, and what was changed since
///
/// Exits with 1 if nothing is installed or something is wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
        let Some(install) = Install::read()? else {
            if app.ui.json {
                app.ui.json(&json!({"installed": null, "checks": []}))?;
            } else {
                app.ui.text("not installed: VMs run rootless\n")?;
                app.ui.note("sudo banger system install");
            }
            return Ok(1);
        };
        let checks = health::examine(&host(), &install).await;
        let is_bad = checks
            .iter()
            .any(|check| check.status == CheckStatus::Failed);
        if app.ui.json {
            app.ui
                .json(&json!({"installed": install, "checks": checks}))?;
            return Ok(u8::from(is_bad));
        }
        let (text, [_, warnings, failed]) = findings(&checks, app.ui.quiet);
        app.ui.text(&text)?;
        if !app.ui.quiet {
            app.ui.text(&format!(
                "\nbanger {}, installed for {} {} ago: {warnings} to look at, {failed} failed\n",
                sanitize::line(&install.version),
                sanitize::line(&install.owner.name),
                age(install.installed_unix.saturating_mul(1000)),
            ))?;
        }
        Ok(u8::from(is_bad))
    }
}
