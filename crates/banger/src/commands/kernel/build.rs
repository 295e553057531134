//! `banger kernel build`

use super::add;
use crate::app::App;
use crate::error::CliError;
use banger_api::{AddKernel, BuildKernel};
use banger_names::KernelName;
use std::num::NonZeroU16;

/// Build a lean kernel from Debian's kernel source, which boots faster
///
/// Everything that a guest needs is built in, Docker and nftables included, and nothing else; it takes
/// some minutes. `banger kernel default lean-VERSION` makes it what VMs get.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name it gets; lean-VERSION when left out
    #[arg(long, value_name = "NAME")]
    name: Option<KernelName>,
    /// How many compilers run at once; as many as there are CPUs when left out
    #[arg(long, short, value_name = "N")]
    jobs: Option<NonZeroU16>,
    /// The release whose source is taken, as bookworm
    #[arg(long, value_name = "SUITE")]
    suite: Option<String>,
    /// The archive's mirror; the host's own when left out
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let build = BuildKernel {
            name: self.name,
            suite: self.suite,
            mirror: self.mirror,
            jobs: self.jobs,
        };
        add(app, &AddKernel::Build(build)).await
    }
}
