//! `banger config path`

use crate::app::App;
use crate::error::CliError;
use serde_json::json;

/// Print where the configuration file is, or would be
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self, app: &App) -> Result<(), CliError> {
        let path = app.dirs()?.config;
        if app.ui.json {
            return app.ui.json(&json!({"path": path, "exists": path.exists()}));
        }
        app.ui.text(&format!("{}\n", path.display()))
    }
}
