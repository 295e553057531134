//! `docs/privileges.md` and `packaging/systemd` say what the program's tables say.

use crate::methods::METHODS;
use banger::system::layout::{
    COMMAND, HELPER_ROOT, MODULES, PROGRAM_NAMES, PROGRAMS, RECORD, UDEV_RULES, config_dir, paths,
};
use banger::system::owner::OwnerFacts;
use banger::system::units::{Row, Unit, render, rows};
use std::path::{Path, PathBuf};

pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares a file with what it should be, or writes it.
fn expect(path: &str, wanted: &str) {
    let file = top().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, wanted).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == wanted,
        "{path} is not what the program says: \
         run UPDATE_DOCS=1 cargo test -p banger --test cli privileges"
    );
}

/// Puts what is generated between `<!-- NAME -->` and the next `<!-- end -->`.
fn fill(text: &str, name: &str, block: &str) -> String {
    let begin = format!("<!-- {name} -->\n");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no {begin}"));
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}{begin}{block}<!-- end -->{after}")
}

fn table(head: &str, lines: impl Iterator<Item = String>) -> String {
    let columns = head.matches('|').count() - 1;
    let mut out = format!("{head}\n|{}\n", "---|".repeat(columns));
    for line in lines {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// Text in a cell: no end of it, no tag.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// Text as code, which an empty one cannot be.
fn code(text: &str) -> String {
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    format!("`{}`", text.replace('|', "\\|"))
}

fn of(unit: Unit) -> impl Iterator<Item = &'static Row> {
    rows().filter(move |row| row.unit == unit)
}

#[test]
fn privileges_are_current() {
    let path = "docs/privileges.md";
    let mut text = std::fs::read_to_string(top().join(path)).unwrap();
    let verbs = METHODS.iter().map(|method| {
        let gates: Vec<_> = method.gates.iter().map(|(gate, _)| *gate).collect();
        format!(
            "| `{}` | {} | {} | {} | {} |",
            method.name,
            cell(method.does),
            cell(method.takes),
            cell(&gates.join("; ")),
            cell(method.undone_by)
        )
    });
    let head = "| verb | does | takes | gate | undone by |";
    text = fill(&text, "verbs", &table(head, verbs));
    let gates = METHODS.iter().flat_map(|method| {
        method.gates.iter().map(|(gate, tests)| {
            let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
            let tests = tests.join(", ");
            format!("| `{}` | {} | {tests} |", method.name, cell(gate))
        })
    });
    let head = "| verb | gate | refused by |";
    text = fill(&text, "gates", &table(head, gates));
    text = fill(&text, "files", &files());
    let capabilities = of(Unit::Helper)
        .filter(|row| row.directive == "CapabilityBoundingSet")
        .map(|row| format!("| `{}` | {} |", row.value, cell(row.why)));
    let capabilities = table("| capability | why |", capabilities);
    text = fill(&text, "capabilities", &capabilities);
    for (name, unit) in [
        ("unit helper", Unit::Helper),
        ("unit daemon", Unit::Daemon),
        ("unit socket", Unit::Socket),
        ("unit slice", Unit::Slice),
    ] {
        let lines = of(unit)
            .filter(|row| row.directive != "Description")
            .map(|row| {
                let (value, why) = (code(row.value), cell(row.why));
                format!("| `{}` | {value} | {why} |", row.directive)
            });
        text = fill(&text, name, &table("| directive | value | why |", lines));
    }
    expect(path, &text);
}

/// Every path that installing writes.
fn files() -> String {
    let programs: Vec<_> = PROGRAM_NAMES
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    let mut lines = vec![
        format!(
            "| `{PROGRAMS}` | the programs, 0755: {} |",
            programs.join(", ")
        ),
        format!(
            "| `{HELPER_ROOT}` | the helper's root directory: empty, for its unit to bind into |"
        ),
        format!("| `{COMMAND}` | a link to the installed `banger`, if nothing is there |"),
        format!("| `{MODULES}` | kernel modules that are loaded at boot |"),
        format!(
            "| `{UDEV_RULES}` | what udev leaves alone: VMs' taps, snapshots and their loop devices |"
        ),
    ];
    lines.extend(Unit::ALL.map(|unit| format!("| `{}` | the unit below |", unit.path())));
    lines.push(format!(
        "| `{RECORD}/install.toml` | the record: version, owner, paths, digests of these files |"
    ));
    lines.push(format!(
        "| group `{}` | a line of `/etc/group` |",
        banger_priv::GROUP
    ));
    table("| path | what |", lines.into_iter())
}

#[test]
fn privileges_units_in_packaging_are_what_is_written() {
    let owner = OwnerFacts {
        name: "owner".into(),
        uid: 1000,
        home: "/home/owner".into(),
    };
    for unit in Unit::ALL {
        expect(
            &format!("packaging/systemd/{}", unit.file()),
            &render(unit, &owner),
        );
    }
}

#[test]
fn privileges_units_name_the_paths_that_are_recorded() {
    let paths = paths(&config_dir(Path::new("{home}")).join("config.toml"));
    let has = |unit, directive: &str, word: &str| {
        of(unit).any(|row| {
            row.directive == directive && row.value.split([' ', '=']).any(|part| part == word)
        })
    };
    for (path, directive, parent) in [
        (&paths.state, "StateDirectory", "/var/lib"),
        (&paths.data, "StateDirectory", "/var/lib"),
        (&paths.cache, "CacheDirectory", "/var/cache"),
        (&paths.runtime, "RuntimeDirectory", "/run"),
    ] {
        let name = path.strip_prefix(parent).unwrap().to_str().unwrap();
        assert!(has(Unit::Daemon, directive, name), "{path:?}");
    }
    // The helper must see what the daemon hands over, and be told so.
    for path in ["/var/lib/banger", "/var/cache/banger", "/run/banger"] {
        assert!(has(Unit::Helper, "BindPaths", path), "{path}");
        assert!(has(Unit::Helper, "ExecStart", path), "{path}");
    }
    assert!(has(Unit::Socket, "ListenStream", banger_priv::SOCKET));
    assert!(has(Unit::Daemon, "SupplementaryGroups", banger_priv::GROUP));
    assert!(has(Unit::Socket, "SocketGroup", banger_priv::GROUP));
}
