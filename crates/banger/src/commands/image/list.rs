//! `banger image ls`

use crate::app::App;
use crate::commands::ShowArgs;
use crate::error::CliError;
use banger_api::ImageView;

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let images: Vec<ImageView> = app.client().await?.get("/v1/images").await?;
        app.ui.list(&images, self.show.format.as_ref())
    }
}
