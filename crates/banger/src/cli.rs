//! The tree of commands and the flags that all of them have.

use crate::app::App;
use crate::commands::{
    completion, config, cp, doctor, events, image, kernel, ps, ssh_config, ssh_proxy, system,
    version, vm,
};
use crate::error::CliError;
use crate::ui::Ui;
use crate::ui::progress::Mode;
use clap::{Args, Parser, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Run commands in disposable Linux VMs
///
/// `banger run -- make test` boots a VM, runs the command in it and throws it away;
/// `banger vm create dev` keeps one. The daemon is started when it is needed.
///
/// Exit codes: `run`, `exec` and `ssh` pass on the guest command's own; 124 it was timed out,
/// 125 banger failed, 126 the guest cannot execute it, 127 it does not exist in the guest.
/// All others: 0 done, 1 failed, 124 the time is up that --timeout gave, 2 wrong usage, 3 no such object, 4 conflict or busy,
/// 5 permission, 6 daemon unreachable, 7 confirmation needed, 8 host unsupported,
/// 9 verification failed.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    propagate_version = false,
    max_term_width = 100
)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Show things, and errors (on standard error), as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print only ids, and no notes
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more about what is done
    #[arg(short, long, global = true)]
    verbose: bool,
    /// How progress is shown (on standard error)
    #[arg(
        long,
        global = true,
        value_name = "MODE",
        default_value = "auto",
        env = "BANGER_PROGRESS"
    )]
    progress: Mode,
    /// The configuration file of a daemon that is started for this command
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Use a daemon of your own, without root, although one is installed (BANGER_MODE=rootless)
    #[arg(long, global = true)]
    rootless: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<vm::run::Args>),
    Exec(vm::exec::Args),
    Ssh(vm::ssh::Args),
    Ps(ps::Args),
    Cp(cp::Args),
    Events(events::Args),
    #[command(subcommand)]
    Vm(vm::Command),
    #[command(subcommand)]
    Image(image::Command),
    #[command(subcommand)]
    Kernel(kernel::Command),
    #[command(subcommand)]
    System(system::Command),
    Doctor(doctor::Args),
    #[command(subcommand)]
    Config(config::Command),
    SshConfig(ssh_config::Args),
    #[command(hide = true)]
    SshProxy(ssh_proxy::Args),
    Completion(completion::Args),
    Version(version::Args),
}

impl Cli {
    /// Runs the command and returns the exit code. Failures are shown.
    pub fn run(self) -> i32 {
        let ui = Ui {
            json: self.global.json,
            quiet: self.global.quiet,
            verbose: self.global.verbose,
            progress: self.global.progress,
        };
        let is_attached = self.command.is_attached();
        let result = App::new(ui.clone(), self.global.config, self.global.rootless)
            .and_then(|app| crate::block_on(self.command.run(&app)));
        match result {
            Ok(code) => code.into(),
            Err(error) => {
                crate::session::terminal::restore();
                ui.error(&error);
                error.exit_code(is_attached).into()
            }
        }
    }
}

impl Command {
    /// Whether the exit code is that of a command in a guest.
    fn is_attached(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Exec(_)
                | Self::Ssh(_)
                | Self::Vm(vm::Command::Run(_) | vm::Command::Exec(_) | vm::Command::Ssh(_))
        )
    }

    async fn run(self, app: &App) -> Result<u8, CliError> {
        match self {
            Self::Run(args) => args.run(app).await,
            Self::Exec(args) => args.run(app).await,
            Self::Ssh(args) => args.run(app).await,
            Self::Ps(args) => args.run(app).await.map(|()| 0),
            Self::Cp(args) => args.run(app).await.map(|()| 0),
            Self::Events(args) => args.run(app).await.map(|()| 0),
            Self::Vm(command) => command.run(app).await,
            Self::Image(command) => command.run(app).await.map(|()| 0),
            Self::Kernel(command) => command.run(app).await.map(|()| 0),
            Self::System(command) => command.run(app).await,
            Self::Doctor(args) => args.run(app).await,
            Self::Config(command) => command.run(app).await.map(|()| 0),
            Self::SshConfig(args) => args.run(app).map(|()| 0),
            Self::SshProxy(args) => args.run(app).await.map(|()| 0),
            Self::Completion(args) => args.run(app).map(|()| 0),
            Self::Version(args) => args.run(app).await.map(|()| 0),
        }
    }
}

/// Whether a command line that did not parse meant a command whose exit code is the guest's.
pub(crate) fn is_attached(arguments: &[OsString]) -> bool {
    let mut words = arguments
        .iter()
        .skip(1)
        .filter(|word| !word.to_string_lossy().starts_with('-'))
        .map(|word| word.to_string_lossy())
        .filter(|word| word != "vm");
    words
        .next()
        .is_some_and(|word| matches!(word.as_ref(), "run" | "exec" | "ssh"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_sound() {
        crate::command().debug_assert();
    }
}
