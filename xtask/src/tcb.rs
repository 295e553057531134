//! `cargo xtask tcb`: how large the trusted base is, all that runs as root as a service, and that
//! it has not grown past its budget. What only others use belongs into another crate: `banger-names`,
//! `banger-priv-client` and `banger-guest-sys` are there for that.

use crate::{cargo, top};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The crates of ours that the root helper is made of.
const OURS: [&str; 6] = [
    "banger-ids",
    "banger-ipc",
    "banger-priv",
    "banger-bus",
    "banger-sys",
    "bangerd-root",
];

/// The most that each may be. To raise one is a decision, to be said in the commit that does.
const BUDGET: [(&str, usize); 4] = [
    ("code lines", 8_060),
    ("crates", 22),
    ("unsafe blocks", 30),
    ("verbs", 18),
];

/// Prints the table; past the budget is an error.
pub(crate) fn run() -> Result<()> {
    let mut lines = 0;
    let mut unsafes = 0;
    for name in OURS {
        let mut here = Count::default();
        count(&top().join("crates").join(name).join("src"), &mut here)?;
        println!(
            "{name:<14} {:>6} lines {:>4} unsafe",
            here.lines, here.unsafes
        );
        lines += here.lines;
        unsafes += here.unsafes;
    }
    let request = fs::read_to_string(top().join("crates/banger-priv/src/request.rs"))?;
    let verbs = request.matches("#[serde(rename = \"priv.").count();
    let found = [lines, crates()?, unsafes, verbs];
    let mut over = Vec::new();
    for ((what, budget), found) in BUDGET.into_iter().zip(found) {
        println!("{what:<14} {found:>6} of {budget}");
        if found > budget {
            over.push(format!("{found} {what} are more than {budget}"));
        }
    }
    if !over.is_empty() {
        bail!("the trusted base is past its budget: {}", over.join(", "));
    }
    Ok(())
}

/// How many crates end in the helper, ours and others'.
fn crates() -> Result<usize> {
    let args = "tree --package bangerd-root --edges normal --prefix none --format {p}";
    let output = cargo(&args.split(' ').collect::<Vec<_>>())
        .output()
        .context("run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    let names = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        // Macros run in the compiler, not as root.
        (!rest.contains("(proc-macro)")).then(|| name.to_owned())
    });
    Ok(names.collect::<BTreeSet<_>>().len())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    lines: usize,
    unsafes: usize,
}

fn count(dir: &Path, into: &mut Count) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {dir:?}"))? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                count(&path, into)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            count_text(&fs::read_to_string(&path)?, into);
        }
    }
    Ok(())
}

/// Counts what is neither blank, nor a comment, nor a test: those stand at a file's foot.
fn count_text(text: &str, into: &mut Count) {
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            match lines.peek() {
                Some(next) if next.ends_with('{') => return,
                _ => drop(lines.next()),
            }
            continue;
        }
        let code = line.trim();
        if code.is_empty() || code.starts_with("//") {
            continue;
        }
        into.lines += 1;
        into.unsafes += ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
            .iter()
            .map(|form| code.matches(form).count())
            .sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blanks_and_tests_are_not_code() {
        let mut found = Count::default();
        let text = "//! Doc.\n\n#[cfg(test)]\nmod tests;\nfn a() {\n    // why\n    unsafe { b() }\n}\n\
                    #[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        count_text(text, &mut found);
        assert_eq!(
            found,
            Count {
                lines: 3,
                unsafes: 1
            }
        );
    }
}
