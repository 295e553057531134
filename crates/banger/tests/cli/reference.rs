//! The reference in `docs/cli.md` says what the program takes.

use std::path::Path;

#[test]
fn reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let now = banger::reference::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == now,
        "docs/cli.md is not what the program takes: \
         run UPDATE_DOCS=1 cargo test -p banger --test cli reference"
    );
}
