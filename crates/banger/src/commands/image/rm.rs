//! `banger image rm`

use super::path;
use crate::app::App;
use crate::commands::{ConsentArgs, for_each};
use crate::completion;
use crate::error::CliError;
use crate::ui::table::Tabular;
use banger_api::ImageView;
use clap_complete::ArgValueCandidates;

/// Remove images
///
/// An image whose content a VM uses stays until the VM is gone.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The images, by tag or digest (a unique prefix will do)
    #[arg(value_name = "IMAGE", required = true, add = ArgValueCandidates::new(completion::images))]
    images: Vec<String>,
    #[command(flatten)]
    consent: ConsentArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        for_each(app, &self.images, async |name| {
            let path = path(name);
            let image: ImageView = client.get(&path).await?;
            if self.consent.dry_run {
                return Ok(image);
            }
            if !self.consent.yes {
                app.ui.confirm(
                    &format!("remove image {name} ({})", image.size),
                    &format!("banger image rm --yes {}", image.name()),
                )?;
            }
            Ok(client.delete(&path).await?)
        })
        .await
    }
}
