//! Every gate and every attack names tests, and each of these is there: so that who audits can go and look,
//! and who removes a test learns what it was for.

use crate::methods::METHODS;
use crate::privileges::top;
use std::collections::BTreeSet;
use std::path::Path;

/// The names of all tests below `dir`.
fn collect(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(named_in(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The functions in `text` that are marked as tests; other marks may stand between.
fn named_in(text: &str) -> Vec<String> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if is_test && let Some((_, rest)) = line.split_once("fn ") {
            names.extend(rest.split('(').next().map(str::to_owned));
            is_test = false;
        }
    }
    names
}

fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for room in ["crates", "e2e"] {
        collect(&top().join(room), &mut names);
    }
    assert!(names.len() > 500, "{}", names.len());
    names
}

#[test]
fn attacks_on_each_verbs_gates_are_tried_by_tests_that_exist() {
    let tests = tests();
    for method in METHODS {
        assert!(!method.gates.is_empty(), "{}", method.name);
        for (gate, tried_by) in method.gates {
            assert!(!tried_by.is_empty(), "{}: {gate}: no test", method.name);
            for test in *tried_by {
                assert!(
                    tests.contains(*test),
                    "{}: {gate}: no test {test}",
                    method.name
                );
            }
        }
    }
}

#[test]
fn attacks_in_the_document_are_tried_by_tests_that_exist_or_said_not_to_be() {
    let tests = tests();
    let text = std::fs::read_to_string(top().join("docs/attacks.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    let rows: Vec<_> = rows.filter(|row| !row.starts_with("id |")).collect();
    assert!(rows.len() > 100, "{}", rows.len());
    for row in rows {
        let cells: Vec<_> = row
            .trim_end_matches('|')
            .split(" | ")
            .map(str::trim)
            .collect();
        let [_, _, becomes, shown] = cells[..] else {
            panic!("not four cells: {row}");
        };
        // Every other part is between backticks.
        let named: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        let is_open = becomes.starts_with('–') || shown.starts_with('–');
        assert!(is_open || !named.is_empty(), "nothing shows it: {row}");
        for test in named.into_iter().filter(|name| !name.contains(' ')) {
            assert!(tests.contains(test), "no test {test}: {row}");
        }
    }
}
