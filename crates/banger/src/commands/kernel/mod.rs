//! `banger kernel`

mod build;
mod default;
mod import;
mod inspect;
mod list;
mod pull;
mod rm;

use crate::app::{App, segment};
use crate::error::{CliError, Kind};
use crate::time::age;
use crate::ui::table::Tabular;
use banger_api::{AddKernel, KernelView, Step};

/// Get, show and remove kernels
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Pull(pull::Args),
    Build(build::Args),
    Import(import::Args),
    #[command(visible_alias = "list")]
    Ls(list::Args),
    Inspect(inspect::Args),
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(rm::Args),
    Default(default::Args),
}

impl Command {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        match self {
            Self::Pull(args) => args.run(app).await,
            Self::Build(args) => args.run(app).await,
            Self::Import(args) => args.run(app).await,
            Self::Ls(args) => args.run(app).await,
            Self::Inspect(args) => args.run(app).await,
            Self::Rm(args) => args.run(app).await,
            Self::Default(args) => args.run(app).await,
        }
    }
}

impl Tabular for KernelView {
    const HEADINGS: &'static [&'static str] = &[
        "NAME", "DIGEST", "VERSION", "SIZE", "MODULES", "AGE", "DEFAULT",
    ];

    fn cells(&self) -> Vec<String> {
        let yes = |is_so: bool| if is_so { "yes" } else { "" }.to_owned();
        vec![
            self.name.to_string(),
            self.digest.short().to_owned(),
            self.version.clone(),
            self.size.to_string(),
            yes(self.has_modules),
            age(self.created_unix.saturating_mul(1000)),
            yes(self.is_default),
        ]
    }

    fn id(&self) -> String {
        self.digest.to_string()
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// The path of all kernels in the API.
pub(crate) const PATH: &str = "/v1/kernels";

/// The path of one kernel in the API.
pub(crate) fn path(kernel: &str) -> String {
    format!("{PATH}/{}", segment(kernel))
}

/// Adds a kernel, with progress, and says which.
async fn add(app: &App, request: &AddKernel) -> Result<(), CliError> {
    let client = app.builder_client().await?;
    let mut progress = app.ui.work();
    let last = client
        .steps(PATH, request, |step| progress.show(&step))
        .await?;
    progress.finish();
    match last {
        Step::Kernel(kernel) => app.ui.done(kernel.as_ref()),
        _ => Err(CliError::new(
            Kind::Internal,
            "add a kernel: the daemon ended with something else",
        )),
    }
}
