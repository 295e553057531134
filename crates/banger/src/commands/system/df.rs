//! `banger system df`

use crate::app::App;
use crate::commands::ShowArgs;
use crate::error::CliError;
use crate::ui::table::Tabular;
use banger_api::DiskUseView;

/// Show what takes disk space, and what of it nothing needs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let uses: Vec<DiskUseView> = app.client().await?.get("/v1/df").await?;
        app.ui.list(&uses, self.show.format.as_ref())
    }
}

impl Tabular for DiskUseView {
    const HEADINGS: &'static [&'static str] = &["KIND", "COUNT", "SIZE", "RECLAIMABLE", "BY"];

    fn cells(&self) -> Vec<String> {
        let hint = match self.reclaimable.0 {
            0 => String::new(),
            _ => self.hint.clone(),
        };
        vec![
            self.kind.clone(),
            self.count.to_string(),
            self.size.to_string(),
            self.reclaimable.to_string(),
            hint,
        ]
    }

    fn id(&self) -> String {
        self.kind.clone()
    }

    fn name(&self) -> String {
        self.kind.clone()
    }
}
