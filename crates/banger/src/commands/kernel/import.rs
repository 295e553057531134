//! `banger kernel import`

use super::add;
use crate::app::App;
use crate::commands::host_path;
use crate::error::CliError;
use banger_api::{AddKernel, ImportKernel};
use banger_names::KernelName;
use clap::ValueHint;
use std::path::PathBuf;

/// Import a kernel from an ELF vmlinux or a bzImage
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// The name it gets
    #[arg(long, value_name = "NAME")]
    name: KernelName,
    /// The directory of its modules (/lib/modules/VERSION), if it needs any
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    modules: Option<PathBuf>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let import = ImportKernel {
            path: host_path(&self.file)?,
            modules: self.modules.as_deref().map(host_path).transpose()?,
            name: self.name,
        };
        add(app, &AddKernel::Import(import)).await
    }
}
