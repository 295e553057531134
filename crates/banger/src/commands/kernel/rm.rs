//! `banger kernel rm`

use super::path;
use crate::app::App;
use crate::commands::{ConsentArgs, for_each};
use crate::completion;
use crate::error::CliError;
use banger_api::KernelView;
use clap_complete::ArgValueCandidates;

/// Remove kernels
///
/// A kernel that a VM uses stays until the VM is gone.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The kernels, by name or digest
    #[arg(value_name = "KERNEL", required = true, add = ArgValueCandidates::new(completion::kernels))]
    kernels: Vec<String>,
    #[command(flatten)]
    consent: ConsentArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        for_each(app, &self.kernels, async |name| {
            let path = path(name);
            let kernel: KernelView = client.get(&path).await?;
            if self.consent.dry_run {
                return Ok(kernel);
            }
            if !self.consent.yes {
                app.ui.confirm(
                    &format!("remove kernel {}", kernel.name),
                    &format!("banger kernel rm --yes {}", kernel.name),
                )?;
            }
            Ok(client.delete(&path).await?)
        })
        .await
    }
}
