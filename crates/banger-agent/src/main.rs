//! The agent's entry: it is init, or it says what it is.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use banger_agent::{init, log};

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if rustix::process::getpid().is_init() {
        return init::run();
    }
    let (text, code) = match argument.as_deref() {
        Some("--version") => {
            let version = format!("banger-agent {}\n", env!("CARGO_PKG_VERSION"));
            return match std::io::stdout().write_all(version.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Some(other) => (format!("does not know the argument {other:?}"), 2),
        None => (
            "is the init of banger's virtual machines and runs only as process 1; \
             this is process "
                .to_owned()
                + &rustix::process::getpid().as_raw_nonzero().to_string(),
            1,
        ),
    };
    log::error(&text);
    ExitCode::from(code)
}
