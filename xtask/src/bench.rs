//! `cargo xtask bench boot`: what banger adds to the raw engine.
//!
//! Both sides of a ratio are measured in one run, turn by turn: `banger run -- true` from the
//! start of the process to its end, against the same kernel, initramfs and disk booted by hand
//! with the very command line that the daemon used, to the agent's ready line. The first turn
//! warms the page cache and is dropped.
//!
//! Here the engine is QEMU and the clock is the wall's. With `--lab` it is Firecracker in the
//! lab whose clock counts instructions, where figures repeat: see [`lab`].

pub(crate) mod home;
mod inside;
mod lab;
mod lab_jailed;
mod raw;
pub(crate) mod report;
mod store;

use anyhow::{Context, Result, bail};
use home::Home;
pub(crate) use inside::inside;
use raw::RawVm;
use report::{Row, median, millis};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

struct Options {
    runs: usize,
    json: Option<PathBuf>,
    /// Measures in the lab.
    lab: bool,
    /// There, only the installed services.
    jailed: bool,
    /// A `BANGER_HOME` or data directory that has a lean kernel, for the lab.
    lean: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut runs = None;
        let mut options = Self {
            runs: 0,
            json: None,
            lab: false,
            jailed: false,
            lean: None,
        };
        let mut args = args.iter();
        while let Some(&name) = args.next() {
            let mut value = || args.next().with_context(|| format!("{name} needs a value"));
            match name {
                "--runs" => runs = Some(value()?.parse().context("--runs")?),
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--lab" => options.lab = true,
                "--jailed" => options.jailed = true,
                "--lean" => options.lean = Some(PathBuf::from(value()?)),
                _ => bail!("no such option: {name}"),
            }
        }
        options.runs = runs.unwrap_or(if options.lab { 5 } else { 10 });
        if options.runs == 0 {
            bail!("--runs must be at least 1");
        }
        if (options.lean.is_some() || options.jailed) && !options.lab {
            bail!("--lean and --jailed are for --lab");
        }
        Ok(options)
    }
}

/// Measures, prints a table, and writes JSON if asked. Whether aims are met is no matter of the
/// exit code: it says whether it could be measured, or that the lab died.
pub(crate) fn boot(args: &[&str]) -> Result<ExitCode> {
    let options = Options::parse(args)?;
    if options.lab {
        return lab::measure(&options);
    }
    measure_here(&options)?;
    Ok(ExitCode::SUCCESS)
}

fn measure_here(options: &Options) -> Result<()> {
    let home = Home::new()?;
    let raw = RawVm::like_ours(&home)?;

    let mut ours_ms = Vec::new();
    let mut raw_ms = Vec::new();
    for turn in 0..=options.runs {
        let engine = raw.boot()?;
        let whole = {
            let start = Instant::now();
            home.must(&["run", "--", "true"])?;
            start.elapsed()
        };
        eprintln!("turn {turn}: raw {engine:.2?}, banger run {whole:.2?}");
        if turn > 0 {
            raw_ms.push(millis(engine));
            ours_ms.push(millis(whole));
        }
    }
    let ratios = ours_ms.iter().zip(&raw_ms).map(|(a, b)| a / b).collect();

    let exec_ms = home.exec_round_trips(10 * options.runs)?;
    let echo_ms = raw.echo_round_trips(10 * options.runs)?;
    let exec_ratio = vec![median(&exec_ms) / median(&echo_ms)];

    let mut rows = vec![
        Row::of("raw engine, spawn to agent ready", "ms", raw_ms),
        Row::of("banger run -- true, start to end", "ms", ours_ms),
        Row::of("boot: banger / raw engine", "x", ratios).at_most(1.25),
        Row::of("bare echo over the channel", "ms", echo_ms),
        Row::of("exec of true through the daemon", "ms", exec_ms),
        Row::of("exec / echo, of the medians", "x", exec_ratio),
        Row::of("daemon, resident", "MiB", vec![home.daemon_resident_mib()?]),
    ];
    for (name, size) in home.program_sizes_mib()? {
        rows.push(Row::of(name, "MiB", vec![size]));
    }
    report::tell(&rows, options.json.as_deref())
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let parsed = Options::parse(&["--lab", "--lean", "/x"]).unwrap();
        assert_eq!((parsed.runs, parsed.lab), (5, true));
        assert_eq!(Options::parse(&["--runs", "3"]).unwrap().runs, 3);
        for bad in [
            &["--lean", "/x"][..],
            &["--jailed"],
            &["--runs", "0"],
            &["--runs"],
            &["--labs"],
        ] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }
}
