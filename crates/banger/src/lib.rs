//! The command line: words and flags become requests to the daemon, answers become text.
//!
//! - [`cli`] is the tree of commands, `commands/` one file a command;
//! - [`ui`] alone writes to standard output and standard error, and everything that came
//!   from a guest or the daemon passes its sanitiser first;
//! - [`error`] is the one place where failures become messages and exit codes;
//! - [`daemon`] finds the daemon or starts it, [`system`] installs it as a service;
//! - [`session`] carries an attached command, [`workspace`] and [`copy`] carry files.
#![forbid(unsafe_code)]

mod app;
pub mod cli;
mod commands;
mod completion;
mod copy;
mod daemon;
mod doctor;
mod error;
mod filter;
mod provision;
pub mod reference;
mod session;
mod ssh;
pub mod system;
mod time;
mod ui;
mod usage;
mod workspace;

use clap::Parser;
use clap_complete::CompleteEnv;
use error::CliError;

/// The whole command line, as clap knows it.
pub fn command() -> clap::Command {
    <cli::Cli as clap::CommandFactory>::command()
}

/// Runs the command that the process's arguments name and returns the exit code.
pub fn run_from_env() -> i32 {
    session::terminal::restore_on_panic();
    CompleteEnv::with_factory(command).complete();
    let arguments: Vec<_> = std::env::args_os().collect();
    let wants_json = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--json");
    let code = match cli::Cli::try_parse_from(&arguments) {
        Ok(cli) => cli.run(),
        Err(error) => ui::usage(&error, wants_json, cli::is_attached(&arguments)),
    };
    session::terminal::restore();
    code
}

/// Runs `work` on this thread, with timers, sockets and signals.
fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::io("start the event loop", &source))?;
    let result = runtime.block_on(work);
    // A blocking read of standard input cannot be ended; the process's end takes it along.
    runtime.shutdown_background();
    result
}
