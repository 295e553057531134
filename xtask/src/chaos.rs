//! `cargo xtask chaos`: the root helper killed and refused in each of its verbs, then everything else
//! killed in whatever is asked, each in a lab of its own; at the end, all tables once more.

use crate::smoke::{KILLED, Tests};
use anyhow::Result;

/// How the first line of a table begins.
const HEADINGS: [&str; 2] = ["verb  ", "operation  "];

pub(crate) fn run() -> Result<()> {
    let tests = Tests::build()?;
    let mut tables = Vec::new();
    let helper = tests.in_a_lab("helper", |lab| {
        let said = tests.helper.tell_long(lab)?;
        tables.extend(said.iter().flat_map(|said| tables_in(&said.text)));
        Ok(said.map(|said| said.code).to_vec())
    });
    let killed = tests.in_a_lab("killed", |lab| {
        let said = tests.tell_killed(lab, &[KILLED])?;
        tables.extend(tables_in(&said.text));
        Ok(vec![said.code])
    });
    println!("{}", tables.join("\n"));
    helper.and(killed)
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
