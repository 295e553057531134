//! A benchmark's figures as a table and as JSON.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// One figure of a report.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) values: Vec<f64>,
    /// What its median should not exceed.
    pub(super) aim: Option<f64>,
}

impl Row {
    /// A figure without an aim.
    pub(super) fn of(name: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit,
            values,
            aim: None,
        }
    }

    /// How many times the median of `other` that of `values` is.
    pub(super) fn ratio(name: impl Into<String>, values: &[f64], other: &[f64]) -> Self {
        Self::of(name, "x", vec![median(values) / median(other)])
    }

    pub(super) fn at_most(mut self, aim: f64) -> Self {
        self.aim = Some(aim);
        self
    }
}

/// Prints the table, and writes the JSON if asked.
pub(super) fn tell(rows: &[Row], json: Option<&Path>) -> Result<()> {
    print(rows);
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&as_json(rows))?;
        std::fs::write(path, text).with_context(|| format!("write {path:?}"))?;
    }
    Ok(())
}

fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    println!(
        "{:<width$} {:>10} {:>10} {:>5}  aim (median)",
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
        let line = format!(
            "{:<width$} {middle:>10.2} {high:>10.2} {:>5}  {aim}",
            row.name, row.unit
        );
        println!("{}", line.trim_end());
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

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// The value that 99 of 100 do not exceed; of fewer than a hundred values, the largest.
pub(crate) fn p99(values: &[f64]) -> f64 {
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
        let ratio = Row::ratio("r", &[3.0, 4.0, 100.0], &[2.0]);
        assert_eq!(ratio.values, [2.0]);
    }
}
