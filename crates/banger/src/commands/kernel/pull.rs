//! `banger kernel pull`

use super::add;
use crate::app::App;
use crate::error::CliError;
use banger_api::{AddKernel, PullKernel};

/// Get Debian's cloud kernel, verified by the archive's signatures
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The release, as bookworm
    #[arg(long, value_name = "SUITE")]
    suite: Option<String>,
    /// The archive's mirror; the host's own when left out
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let pull = PullKernel {
            suite: self.suite,
            mirror: self.mirror,
        };
        add(app, &AddKernel::Pull(pull)).await
    }
}
