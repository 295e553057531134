//! `banger image inspect`

use super::path;
use crate::app::App;
use crate::commands::ShowArgs;
use crate::completion;
use crate::error::CliError;
use banger_api::ImageView;
use clap_complete::ArgValueCandidates;

/// Show one image in full
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image, by tag or digest (a unique prefix will do)
    #[arg(value_name = "IMAGE", add = ArgValueCandidates::new(completion::images))]
    image: String,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let image: ImageView = app.client().await?.get(&path(&self.image)).await?;
        app.ui.inspect(&image, self.show.format.as_ref())
    }
}
