//! `banger image`

mod build;
mod import;
mod inspect;
mod list;
mod rm;

use crate::app::{App, segment};
use crate::error::{CliError, Kind};
use crate::time::age;
use crate::ui::table::Tabular;
use banger_api::{AddImage, ImageView, Step};

/// Make, show and remove images: the root file systems of VMs
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Build(build::Args),
    Import(import::Args),
    #[command(visible_alias = "list")]
    Ls(list::Args),
    Inspect(inspect::Args),
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(rm::Args),
}

impl Command {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        match self {
            Self::Build(args) => args.run(app).await,
            Self::Import(args) => args.run(app).await,
            Self::Ls(args) => args.run(app).await,
            Self::Inspect(args) => args.run(app).await,
            Self::Rm(args) => args.run(app).await,
        }
    }
}

impl Tabular for ImageView {
    const HEADINGS: &'static [&'static str] =
        &["TAG", "DIGEST", "SIZE", "ON DISK", "AGE", "USED BY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name(),
            self.digest.short().to_owned(),
            self.size.to_string(),
            self.disk_used.to_string(),
            age(self.created_unix.saturating_mul(1000)),
            self.used_by.join(","),
        ]
    }

    fn id(&self) -> String {
        self.digest.to_string()
    }

    fn name(&self) -> String {
        if self.tags.is_empty() {
            return self.digest.short().to_owned();
        }
        let tags: Vec<_> = self.tags.iter().map(|tag| tag.as_str()).collect();
        tags.join(",")
    }
}

/// The path of all images in the API.
pub(crate) const PATH: &str = "/v1/images";

/// The path of one image in the API.
pub(crate) fn path(image: &str) -> String {
    format!("{PATH}/{}", segment(image))
}

/// Adds an image, with progress, and says which.
async fn add(app: &App, request: &AddImage) -> Result<(), CliError> {
    let client = app.builder_client().await?;
    let mut progress = app.ui.work();
    let last = client
        .steps(PATH, request, |step| progress.show(&step))
        .await?;
    progress.finish();
    match last {
        Step::Image(image) => app.ui.done(image.as_ref()),
        _ => Err(CliError::new(
            Kind::Internal,
            "add an image: the daemon ended with something else",
        )),
    }
}
