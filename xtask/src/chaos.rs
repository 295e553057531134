//! `cargo xtask chaos`: the root helper killed and refused in each of its verbs, and everything else
//! killed in whatever is asked, in two labs side by side; at the end, all tables once more.

use crate::smoke::{KILLED_APART, KILLED_THERE, Tests, side_by_side};
use anyhow::Result;
use std::sync::{Mutex, PoisonError};

/// How the first line of a table begins.
const HEADINGS: [&str; 2] = ["verb  ", "operation  "];

/// At how many points of each operation, unless the user says otherwise.
const POINTS: &str = "BANGER_CHAOS_POINTS=20";

pub(crate) fn run() -> Result<()> {
    let mut tests = Tests::build()?;
    tests.points.get_or_insert_with(|| POINTS.to_owned());
    let tables = Mutex::new(Vec::new());
    let keep = |text: &str| {
        let mut tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.extend(tables_in(text));
    };
    let helper = || {
        tests.in_a_lab("helper", |lab| {
            let [vmm, net] = tests.helper.tell_long(lab)?;
            let killed = tests.tell_killed(lab, &KILLED_THERE)?;
            let said = [vmm, net, killed];
            said.iter().for_each(|said| keep(&said.text));
            Ok(said.map(|said| said.code).to_vec())
        })
    };
    let killed = || {
        tests.in_a_lab("killed", |lab| {
            let said = tests.tell_killed(lab, &KILLED_APART)?;
            keep(&said.text);
            Ok(vec![said.code])
        })
    };
    let outcome = side_by_side(helper, killed);
    let tables = tables.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", tables.join("\n"));
    outcome
}

/// The tables in what tests said: a heading, and what comes up to an empty line or a test's verdict.
fn tables_in(text: &str) -> Vec<String> {
    let mut tables = Vec::new();
    let mut is_in = false;
    for line in text.lines() {
        let is_heading = HEADINGS.iter().any(|heading| line.starts_with(heading));
        let is_row = line.ends_with(|last: char| last.is_ascii_digit()) && line.contains("   ");
        is_in = is_heading || (is_in && is_row);
        if is_in {
            tables.push(line.to_owned());
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::tables_in;

    #[test]
    fn tables_are_found_in_what_tests_say() {
        let text = "CreateTap: 12 s\nverb   lost\nCreateTap   0\nok\nmore   1\n";
        assert_eq!(tables_in(text), ["verb   lost", "CreateTap   0"]);
    }
}
