//! `banger image import`

use super::add;
use crate::app::App;
use crate::commands::host_path;
use crate::error::CliError;
use banger_api::{AddImage, ImportImage};
use banger_names::Tag;
use clap::ValueHint;
use std::path::PathBuf;

/// Import an image from a root file system's tar (plain, gz, xz, zst) or an ext4 file
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// The tag it gets
    #[arg(short, long, value_name = "TAG")]
    tag: Tag,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let import = ImportImage {
            path: host_path(&self.file)?,
            tag: self.tag,
        };
        add(app, &AddImage::Import(import)).await
    }
}
