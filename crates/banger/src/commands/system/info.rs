//! `banger system info`

use crate::app::App;
use crate::commands::ShowArgs;
use crate::error::CliError;
use crate::ui::table::Tabular;
use banger_api::InfoView;

/// Show the daemon's version, mode, engine, directories and limits, and its host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let info: InfoView = app.client().await?.get("/v1/info").await?;
        app.ui.inspect(&info, self.show.format.as_ref())
    }
}

impl Tabular for InfoView {
    const HEADINGS: &'static [&'static str] = &["VERSION", "MODE", "ENGINE"];

    fn cells(&self) -> Vec<String> {
        let engine = self.engine.clone().unwrap_or_else(|| "none".into());
        vec![self.version.clone(), self.mode.clone(), engine]
    }

    fn id(&self) -> String {
        self.version.clone()
    }

    fn name(&self) -> String {
        self.version.clone()
    }
}
