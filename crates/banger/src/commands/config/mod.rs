//! `banger config`

mod path;
mod show;

use crate::app::App;
use crate::error::CliError;

/// Show the configuration
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Show(show::Args),
    Path(path::Args),
}

impl Command {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        match self {
            Self::Show(args) => args.run(app).await,
            Self::Path(args) => args.run(app),
        }
    }
}
