//! `cargo xtask bench boot`: what banger adds to the raw engine.
//!
//! Both sides of a ratio are measured in one run, turn by turn: `banger run -- true` from the
//! start of the process to its end, against the same kernel, initramfs and disk booted by hand
//! with the very command line that the daemon used, to the agent's ready line. The first turn
//! warms the page cache and is dropped.

mod home;
mod raw;

use anyhow::{Context, Result, bail};
use home::Home;
use raw::RawVm;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

struct Options {
    runs: usize,
    json: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self {
            runs: 10,
            json: None,
        };
        let mut args = args.iter();
        while let Some(&name) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            match name {
                "--runs" => options.runs = value.parse().context("--runs")?,
                "--json" => options.json = Some(PathBuf::from(value)),
                _ => bail!("no such option: {name}"),
            }
        }
        if options.runs == 0 {
            bail!("--runs must be at least 1");
        }
        Ok(options)
    }
}

/// One figure of the report.
struct Row {
    name: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    aim: Option<f64>,
}

/// Measures, prints a table, and writes JSON if asked.
pub(crate) fn boot(args: &[&str]) -> Result<()> {
    let options = Options::parse(args)?;
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
        Row {
            name: "raw engine, spawn to agent ready",
            unit: "ms",
            values: raw_ms,
            aim: None,
        },
        Row {
            name: "banger run -- true, start to end",
            unit: "ms",
            values: ours_ms,
            aim: None,
        },
        Row {
            name: "boot: banger / raw engine",
            unit: "x",
            values: ratios,
            aim: Some(1.25),
        },
        Row {
            name: "bare echo over the channel",
            unit: "ms",
            values: echo_ms,
            aim: None,
        },
        Row {
            name: "exec of true through the daemon",
            unit: "ms",
            values: exec_ms,
            aim: None,
        },
        Row {
            name: "exec / echo, of the medians",
            unit: "x",
            values: exec_ratio,
            aim: None,
        },
        Row {
            name: "daemon, resident",
            unit: "MiB",
            values: vec![home.daemon_resident_mib()?],
            aim: None,
        },
    ];
    for (name, size) in home.program_sizes_mib()? {
        rows.push(Row {
            name,
            unit: "MiB",
            values: vec![size],
            aim: None,
        });
    }
    print(&rows);
    if let Some(path) = options.json {
        let text = serde_json::to_string_pretty(&as_json(&rows))?;
        std::fs::write(&path, text).with_context(|| format!("write {path:?}"))?;
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "{:<36} {:>10} {:>10} {:>5}  aim (median)",
        "figure", "median", "p99", "unit"
    );
    for row in rows {
        let aim = row.aim.map_or(String::new(), |aim| {
            let verdict = if median(&row.values) <= aim {
                "met"
            } else {
                "MISSED"
            };
            format!("at most {aim}: {verdict}")
        });
        let (middle, high) = (median(&row.values), p99(&row.values));
        println!(
            "{:<36} {middle:>10.2} {high:>10.2} {:>5}  {aim}",
            row.name, row.unit
        );
    }
}

fn as_json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| {
            json!({
                "name": row.name,
                "unit": row.unit,
                "median": median(&row.values),
                "p99": p99(&row.values),
                "values": row.values,
                "aim": row.aim,
            })
        })
        .collect()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// The value that 99 of 100 do not exceed; of fewer than a hundred values, the largest.
fn p99(values: &[f64]) -> f64 {
    let values = sorted(values);
    let rank = (values.len() * 99).div_ceil(100);
    values
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_statistics() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(p99(&[1.0, 9.0, 2.0]), 9.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(p99(&hundred), 99.0);
    }
}
