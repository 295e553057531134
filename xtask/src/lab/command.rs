//! The lab's command line.

use super::machine::Flavour;
use super::record::{Record, State, names, run_directory};
use super::steps::step;
use super::{HostDied, Lab, Options, TimedOut, now, shell_line, take_down};
use anyhow::{Context, Result, bail};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::str::FromStr;
use std::time::Duration;

/// What `cargo xtask lab` does.
pub(crate) const HELP: &str = "\
cargo xtask lab VERB [--name NAME] ...

  up      start a lab [--flavour fast|steady|count] [--memory MIB] [--huge-pages N]
          [--fresh] (boot, don't resume) [--online] (may reach the network)
  ssh     a shell in it, or a line for its shell [--user USER] [LINE...]
  push    bring files in: FILE... DIRECTORY
  pull    bring files out: FILE... DIRECTORY
  run     a command with its words as they are; its exit code is ours
          [--user USER] [--timeout SECONDS] -- CMD...
          (124: it took too long, 70: the lab itself died)
  check   start a lab (named check), boot a guest in Firecracker in it, time it,
          and take it down [--flavour fast|steady|count] [--fresh]
  status  the labs there are
  down    end one [--all]; logs stay in target/lab/last/NAME";

/// Exit code of `run` when the command did not end in its time, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// Exit code of `run` when the emulated host itself died (EX_SOFTWARE).
const HOST_DIED: u8 = 70;

/// What was typed, sorted: options, then words.
struct Line<'a> {
    options: Options,
    user: &'a str,
    limit: Duration,
    all: bool,
    words: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(args: &[&'a str]) -> Result<Self> {
        let mut line = Self {
            options: Options::default(),
            user: "root",
            limit: Duration::from_secs(600),
            all: false,
            words: Vec::new(),
        };
        let mut rest = args.iter().copied();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{word} needs a value"));
            match word {
                "--name" => line.options.name = value()?.to_owned(),
                "--flavour" => {
                    line.options.flavour = match value()? {
                        "fast" => Flavour::Fast,
                        "steady" => Flavour::Steady,
                        "count" => Flavour::Count,
                        other => bail!("a lab's flavour is fast, steady or count, not {other:?}"),
                    }
                }
                "--memory" => line.options.memory_mib = number(word, value()?)?,
                "--huge-pages" => line.options.huge_pages = number(word, value()?)?,
                "--fresh" => line.options.fresh = true,
                "--online" => line.options.online = true,
                "--all" => line.all = true,
                "--user" => line.user = value()?,
                "--timeout" => line.limit = Duration::from_secs(number(word, value()?)?),
                "--" => {
                    line.words.extend(rest);
                    break;
                }
                _ if word.starts_with('-') => bail!("no such option: {word}"),
                _ => {
                    line.words.push(word);
                    line.words.extend(rest);
                    break;
                }
            }
        }
        Ok(line)
    }

    /// The options, under another name unless one was given.
    fn options_named(&self, name: &str) -> Options {
        let mut options = self.options.clone();
        if options.name == Options::default().name {
            options.name = name.to_owned();
        }
        options
    }

    /// Files and, last, where they go.
    fn files_and_directory(&self) -> Result<(&[&'a str], &'a str)> {
        match self.words.as_slice() {
            [files @ .., to] if !files.is_empty() => Ok((files, to)),
            _ => bail!("name files and a directory:\n\n{HELP}"),
        }
    }
}

fn number<T: FromStr>(option: &str, value: &str) -> Result<T> {
    let number = value.parse().ok();
    number.with_context(|| format!("{option} takes a number, not {value:?}"))
}

/// Does what `args` say.
pub(crate) fn run(args: &[&str]) -> Result<ExitCode> {
    let Some((&verb, args)) = args.split_first() else {
        bail!("name what to do:\n\n{HELP}");
    };
    let line = Line::parse(args)?;
    let name = line.options.name.as_str();
    let takes_words = matches!(verb, "ssh" | "push" | "pull" | "run");
    if !takes_words && !line.words.is_empty() {
        bail!("{verb} takes no {:?}", line.words.join(" "));
    }
    match verb {
        "up" => up(&line.options)?,
        "ssh" => {
            let is_terminal = line.words.is_empty() && std::io::stdin().is_terminal();
            return inside(&line, &line.words.join(" "), is_terminal, Duration::MAX);
        }
        "run" if line.words.is_empty() => bail!("run what?\n\n{HELP}"),
        "run" => return inside(&line, &shell_line(&line.words), false, line.limit),
        "push" => {
            let (files, to) = line.files_and_directory()?;
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            step("push", || Lab::find(name)?.push(&files, to))?;
        }
        "pull" => {
            let (files, to) = line.files_and_directory()?;
            step("pull", || Lab::find(name)?.pull(files, Path::new(to)))?;
        }
        "check" => super::check::run(&line.options_named("check"))?,
        "status" => status()?,
        "down" if line.all => {
            for name in names()? {
                down(&name)?;
            }
        }
        "down" => down(name)?,
        "help" | "--help" | "-h" => println!("{HELP}"),
        _ => bail!("a lab cannot {verb:?}:\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(options: &Options) -> Result<()> {
    let lab = step("lab up", || Lab::up(options))?;
    eprintln!(
        "lab: {:?} takes commands: cargo xtask lab ssh --name {0}",
        lab.name
    );
    lab.leave();
    Ok(())
}

/// Runs something in a lab, with our own standard streams.
fn inside(line: &Line<'_>, remote: &str, terminal: bool, limit: Duration) -> Result<ExitCode> {
    let limit = limit.min(super::LIFE);
    let ended = Lab::find(&line.options.name).and_then(|lab| {
        let door = lab.door();
        let mut ssh = door.command(line.user, remote, terminal);
        ssh.stdin(Stdio::inherit());
        door.to_end(ssh, limit)
    });
    let code = match ended {
        Ok(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Err(error) => {
            let code = match (error.is::<HostDied>(), error.is::<TimedOut>()) {
                (true, _) => HOST_DIED,
                (_, true) => TIMED_OUT,
                _ => return Err(error),
            };
            eprintln!("lab: {error:#}");
            code
        }
    };
    Ok(ExitCode::from(code))
}

fn down(name: &str) -> Result<()> {
    take_down(name).with_context(|| format!("take down lab {name:?}"))
}

fn status() -> Result<()> {
    println!(
        "{:<20} {:<9} {:>8} {:>6} {:<8} {:>8} {:>8}",
        "NAME", "STATE", "PID", "PORT", "FLAVOUR", "MEMORY", "UP"
    );
    for name in names()? {
        let Some(record) = Record::read(&run_directory(&name)?)? else {
            println!("{name:<20} dead");
            continue;
        };
        let state = match (record.alive(), record.state) {
            (None, _) => "dead",
            (Some(_), State::Starting) => "starting",
            (Some(_), State::Ready) => "ready",
        };
        let up = now()?.as_secs().saturating_sub(record.started_unix);
        println!(
            "{name:<20} {state:<9} {:>8} {:>6} {:<8} {:>5}MiB {up:>7}s",
            record.process.pid,
            record.port,
            record.flavour.name(),
            record.memory_mib,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_end_where_the_command_begins() {
        let line = Line::parse(&["--name", "x", "--timeout", "5", "--", "ls", "--name", "y"]);
        let line = line.unwrap();
        assert_eq!(line.options.name, "x");
        assert_eq!(line.limit, Duration::from_secs(5));
        assert_eq!(line.words, ["ls", "--name", "y"]);
        let line = Line::parse(&["ls", "--all", "--", "z"]).unwrap();
        assert!(!line.all);
        assert_eq!(line.words, ["ls", "--all", "--", "z"]);
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for bad in [
            &["--nmae", "x"][..],
            &["--name"],
            &["--memory", "much"],
            &["--flavour", "slow"],
        ] {
            assert!(Line::parse(bad).is_err(), "{bad:?}");
        }
    }
}
