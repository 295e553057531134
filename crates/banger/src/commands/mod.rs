//! One file a command: its arguments (whose comments are the help) and what it does.

pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod cp;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod ps;
pub(crate) mod ssh_config;
pub(crate) mod ssh_proxy;
pub(crate) mod system;
pub(crate) mod version;
pub(crate) mod vm;

use crate::app::App;
use crate::error::{CliError, Kind};
use crate::ui::table::Tabular;
use crate::ui::template::Template;
use serde::Serialize;

/// How something is shown.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Show each as this template says: text with fields of its JSON, as '{{.name}}\t{{.state}}'
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "json")]
    pub format: Option<Template>,
}

/// Consent to destroy something.
#[derive(Debug, clap::Args)]
pub(crate) struct ConsentArgs {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// Does `work` for each name and says what came of it. Goes on after a failure; the exit code is
/// then that of the first one.
pub(crate) async fn for_each<T: Tabular + Serialize>(
    app: &App,
    names: &[String],
    work: impl AsyncFn(&str) -> Result<T, CliError>,
) -> Result<(), CliError> {
    let mut done = Vec::new();
    let mut first_code = None;
    for name in names {
        match work(name).await {
            Ok(thing) => {
                if !app.ui.json {
                    app.ui.done(&thing)?;
                }
                done.push(thing);
            }
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                app.ui.error(&error);
                first_code.get_or_insert(error.exit_code(false));
            }
        }
    }
    if app.ui.json {
        app.ui.json(&done)?;
    }
    match first_code {
        None => Ok(()),
        Some(code) => Err(CliError::new(Kind::Reported(code), "not all were done")),
    }
}

/// The absolute path of a file that the daemon is to read, as text.
pub(crate) fn host_path(path: &std::path::Path) -> Result<String, CliError> {
    let real = std::fs::canonicalize(path)
        .map_err(|source| CliError::io(format!("open {path:?}"), &source))?;
    real.into_os_string()
        .into_string()
        .map_err(|path| CliError::usage(format!("import {path:?}: the path is no UTF-8")))
}
