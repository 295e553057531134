//! `banger image build`

use super::add;
use crate::app::App;
use crate::error::CliError;
use banger_api::{AddImage, BuildImage};
use banger_names::Tag;

/// Build an image from a distribution's packages
///
/// Two builds from the same packages give the same digest. Needs no root and mounts nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to build; only debian so far
    #[arg(value_name = "RECIPE", default_value = "debian")]
    recipe: String,
    /// The tag it gets; the recipe's name when left out
    #[arg(short, long, value_name = "TAG")]
    tag: Option<Tag>,
    /// The release, as bookworm
    #[arg(long, value_name = "SUITE")]
    suite: Option<String>,
    /// The archive's mirror; the host's own when left out
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// A package over the recipe's own; may be given several times, or with commas
    #[arg(long = "package", value_name = "NAME", value_delimiter = ',')]
    packages: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let build = BuildImage {
            recipe: self.recipe,
            tag: self.tag,
            suite: self.suite,
            mirror: self.mirror,
            packages: self.packages,
        };
        add(app, &AddImage::Build(build)).await
    }
}
