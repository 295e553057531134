//! The program `banger`: hands over to the library and ends with the code it returns.
#![forbid(unsafe_code)]

#[allow(
    clippy::exit,
    reason = "the one place where the process ends: a thread may still be blocked reading standard input"
)]
fn main() {
    std::process::exit(banger::run_from_env());
}
