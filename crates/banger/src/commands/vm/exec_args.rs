//! The flags that say how a command runs in a VM, and the running itself.

use crate::app::App;
use crate::error::CliError;
use crate::session::terminal;
use banger_guest::request::{Exec, Exit};
use banger_names::{format_duration, parse_duration};
use clap::ValueHint;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a command runs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Command")]
pub(crate) struct ExecArgs {
    /// An environment variable; without a value, the one it has here. May be given several times
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = parse_variable)]
    env: Vec<(String, Option<String>)>,
    /// A file of environment variables, KEY=VALUE a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    env_file: Vec<PathBuf>,
    /// The working directory in the VM
    #[arg(short, long, value_name = "DIR", value_parser = parse_workdir)]
    workdir: Option<String>,
    /// The user in the VM, as USER or USER:GROUP, by name or number; root when left out
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// End the command after so long (90s, 5m, 1h30m); the exit code is then 124
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    /// Pass standard input on; this is so unless -n is given
    #[arg(short, long, conflicts_with = "no_stdin")]
    interactive: bool,
    /// Do not pass standard input on
    #[arg(short, long)]
    no_stdin: bool,
    /// Give the command a terminal, also when this is none
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,
    /// Give the command no terminal, also when this is one
    #[arg(short = 'T', long)]
    no_tty: bool,
}

impl ExecArgs {
    /// The command as asked for; it begins in `workdir` unless a flag says otherwise.
    pub(crate) fn exec(&self, argv: Vec<String>, workdir: &str) -> Result<Exec, CliError> {
        let mut env = Vec::new();
        for file in &self.env_file {
            env.append(&mut read_env_file(file)?);
        }
        for (key, value) in &self.env {
            if let Some(value) = value.clone().map(Ok).or_else(|| own_variable(key)) {
                env.push((key.clone(), value?));
            }
        }
        let timeout_ms = self.timeout.map_or(0, |timeout| {
            u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
        });
        Ok(Exec {
            argv,
            env,
            user: self.user.clone().unwrap_or_default(),
            workdir: self.workdir.clone().unwrap_or_else(|| workdir.to_owned()),
            terminal: self.has_tty().then(terminal::describe),
            timeout_ms,
        })
    }

    /// Whether the command gets a terminal.
    pub(crate) fn has_tty(&self) -> bool {
        self.tty || (!self.no_tty && terminal::is_interactive())
    }

    /// Whether standard input goes to the command.
    pub(crate) fn has_stdin(&self) -> bool {
        !self.no_stdin
    }

    /// The exit code for how the command ended.
    pub(crate) fn exit_code(&self, app: &App, exit: &Exit) -> u8 {
        if exit.timed_out {
            let limit = self.timeout.map(format_duration).unwrap_or_default();
            app.ui.note(&format!("the command was ended after {limit}"));
        }
        exit.shell_code()
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text).map_err(|error| error.to_string())?;
    if timeout < Duration::from_millis(1) {
        return Err("it would end the command at once; without --timeout there is no limit".into());
    }
    Ok(timeout)
}

fn parse_workdir(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("the working directory is a path in the VM that begins with /".into())
    }
}

fn parse_variable(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err("a variable has the form KEY or KEY=VALUE".into());
    }
    Ok((key.to_owned(), value))
}

/// A variable of our own environment, if it is set.
fn own_variable(key: &str) -> Option<Result<String, CliError>> {
    let into_text = |value: OsString| {
        value
            .into_string()
            .map_err(|_| CliError::usage(format!("pass variable {key:?} on: it is no UTF-8")))
    };
    std::env::var_os(key).map(into_text)
}

/// Reads `KEY=VALUE` and `KEY` lines; blank lines and those that begin with `#` are left out.
fn read_env_file(path: &Path) -> Result<Vec<(String, String)>, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CliError::io(format!("read {path:?}"), &source))?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = parse_variable(line)
            .map_err(|why| CliError::usage(format!("read {path:?}: line {}: {why}", index + 1)))?;
        if let Some(value) = value.map(Ok).or_else(|| own_variable(&key)) {
            variables.push((key, value?));
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_lines() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("env");
        std::fs::write(&path, "# c\n\nA=1=2\n  B=x y\nNOT_SET_ANYWHERE_1\n").unwrap();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            read_env_file(&path).unwrap(),
            [pair("A", "1=2"), pair("B", "x y")]
        );
        std::fs::write(&path, "A=1\n=x\n").unwrap();
        assert!(read_env_file(&path).unwrap_err().message.contains("line 2"));
    }
}
