//! `banger kernel default`

use crate::app::App;
use crate::commands::ShowArgs;
use crate::completion;
use crate::error::CliError;
use banger_api::{KernelView, SetDefaultKernel};
use banger_names::KernelName;
use clap_complete::ArgValueCandidates;
use hyper::Method;

/// Show or choose the kernel that VMs get unless they ask for another
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The kernel to choose; without it, the current one is shown
    #[arg(value_name = "KERNEL", add = ArgValueCandidates::new(completion::kernels))]
    kernel: Option<KernelName>,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        const PATH: &str = "/v1/default-kernel";
        let client = app.client().await?;
        let kernel: KernelView = match self.kernel {
            None => client.get(PATH).await?,
            Some(name) => {
                let choice = SetDefaultKernel { name };
                client.call(Method::PUT, PATH, Some(&choice)).await?
            }
        };
        match &self.show.format {
            Some(_) => app.ui.inspect(&kernel, self.show.format.as_ref()),
            None => app.ui.done(&kernel),
        }
    }
}
