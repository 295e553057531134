//! `bangerd`: makes itself fit to serve and serves until it is told or has nothing to do.
#![forbid(unsafe_code)]

use bangerd::daemon::Role;
use bangerd::startup::{self, StartError};
use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "usage: bangerd [--system | --builder | --version]\n\nServes the banger command line on \
this user's socket, in the foreground.\n\n  --system   as the service of the installation that this user owns\n  \
--builder  makes that one's kernels and images, outside its sandbox\n";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let role = match arguments.as_slice() {
        [] => Role::Own,
        [flag] if flag == "--system" => Role::System,
        [flag] if flag == "--builder" => Role::Builder,
        [flag] if flag == "--version" => {
            return say(&format!("bangerd {}\n", env!("CARGO_PKG_VERSION")));
        }
        [flag] if flag == "--help" || flag == "-h" => return say(USAGE),
        _ => {
            // Nothing better can be done when standard error is closed.
            let _written = std::io::stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    match startup::run(role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = startup::one_line(&error);
            // The command line that started us reads standard output, a person standard error.
            let _written = writeln!(std::io::stdout(), "error: {line}");
            let _written = writeln!(std::io::stderr(), "bangerd: {line}");
            match error {
                StartError::AlreadyRuns { .. } => ExitCode::from(4),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
