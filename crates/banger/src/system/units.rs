//! The one table of what the services are allowed: the unit files are written from it, and
//! `docs/privileges.md` shows it.
//!
//! Measured with systemd 252 and Firecracker 1.12 under its jailer. `RestrictSUIDSGID=` is not in
//! it: it takes openat2(2) away, which the helper needs more (its directories are opened with it).

mod daemon;
mod helper;

use super::owner::OwnerFacts;
use crate::system::layout;

/// A unit of the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The owner's daemon.
    Daemon,
    /// Root's helper.
    Helper,
    /// The helper's socket.
    Socket,
    /// The slice that VMs' scopes are in.
    Slice,
}

/// A line of a unit file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The unit.
    pub unit: Unit,
    /// Its section.
    pub section: &'static str,
    /// The directive.
    pub directive: &'static str,
    /// Its value. `{owner}`, `{uid}`, `{home}` and `{config}` stand for the owner's.
    pub value: &'static str,
    /// Why it is so; empty where the directive says it itself.
    pub why: &'static str,
}

impl Unit {
    /// All, in the order in which they are written.
    pub const ALL: [Self; 4] = [Self::Slice, Self::Socket, Self::Helper, Self::Daemon];

    /// The file's name.
    pub fn file(self) -> &'static str {
        match self {
            Self::Daemon => "bangerd.service",
            Self::Helper => "bangerd-root.service",
            Self::Socket => "bangerd-root.socket",
            Self::Slice => "banger.slice",
        }
    }

    /// Where it is written.
    pub fn path(self) -> String {
        format!("{}/{}", layout::UNITS, self.file())
    }
}

/// The first line of every file that is written, by which it is known as ours.
pub(crate) const MARK: &str = "# Written by `banger system install`.";

/// All lines of all units.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    OTHERS
        .iter()
        .chain(helper::ROWS.iter())
        .chain(daemon::ROWS.iter())
}

/// The file of `unit` for an owner.
pub fn render(unit: Unit, owner: &OwnerFacts) -> String {
    let mut out = format!(
        "{MARK} It is replaced by the next one;\n# what differs on this host goes into {}.d/*.conf.\n",
        unit.path()
    );
    let mut section = "";
    for row in rows().filter(|row| row.unit == unit) {
        if row.section != section {
            section = row.section;
            out.push_str(&format!("\n[{section}]\n"));
        }
        out.push_str(&format!("{}={}\n", row.directive, fill(row.value, owner)));
    }
    out
}

/// Puts the owner into a value.
fn fill(value: &str, owner: &OwnerFacts) -> String {
    let quoted = |path: &std::path::Path| {
        // The owner's facts have no quotes, backslashes, colons and control characters.
        let path = path.display().to_string().replace('%', "%%");
        if path.contains(' ') {
            format!("\"{path}\"")
        } else {
            path
        }
    };
    value
        .replace("{owner}", &owner.name)
        .replace("{uid}", &owner.uid.to_string())
        .replace("{config}", &quoted(&layout::config_dir(&owner.home)))
        .replace("{home}", &quoted(&owner.home))
}

const fn row(
    unit: Unit,
    section: &'static str,
    directive: &'static str,
    value: &'static str,
    why: &'static str,
) -> Row {
    Row {
        unit,
        section,
        directive,
        value,
        why,
    }
}

const OTHERS: &[Row] = &[
    row(Unit::Slice, "Unit", "Description", "VMs of banger", ""),
    row(
        Unit::Slice,
        "Slice",
        "MemoryAccounting",
        "yes",
        "what VMs use can be told from what else uses",
    ),
    row(
        Unit::Socket,
        "Unit",
        "Description",
        "Socket of banger's root helper",
        "",
    ),
    row(
        Unit::Socket,
        "Socket",
        "ListenStream",
        banger_priv::SOCKET,
        "",
    ),
    row(Unit::Socket, "Socket", "DirectoryMode", "0711", ""),
    row(
        Unit::Socket,
        "Socket",
        "SocketGroup",
        banger_priv::GROUP,
        "only bangerd.service has this group, no user: other programs of the owner cannot connect",
    ),
    row(Unit::Socket, "Socket", "SocketMode", "0660", ""),
    row(
        Unit::Socket,
        "Socket",
        "RemoveOnStop",
        "yes",
        "nothing is left where nobody listens",
    ),
    row(Unit::Socket, "Install", "WantedBy", "sockets.target", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(home: &str) -> OwnerFacts {
        OwnerFacts {
            name: "dev".into(),
            uid: 1000,
            home: home.into(),
        }
    }

    #[test]
    fn units_are_whole_and_no_placeholder_is_left() {
        for unit in Unit::ALL {
            let text = render(unit, &owner("/home/dev"));
            assert!(text.starts_with(MARK), "{text}");
            assert!(!text.contains('{') && !text.contains('}'), "{text}");
            let sections: Vec<_> = text.lines().filter(|line| line.starts_with('[')).collect();
            let mut unique = sections.clone();
            unique.dedup();
            assert_eq!(sections, unique, "a section is torn apart in {unit:?}");
        }
        let daemon = render(Unit::Daemon, &owner("/home/dev"));
        assert!(daemon.contains("\nUser=dev\n"), "{daemon}");
        assert!(daemon.contains("=-/home/dev/.config/banger\n"), "{daemon}");
    }

    #[test]
    fn an_odd_home_stays_one_word_and_no_specifier() {
        let daemon = render(Unit::Daemon, &owner("/srv/my home/5%h"));
        assert!(
            daemon.contains("BindReadOnlyPaths=-\"/srv/my home/5%%h/.config/banger\"\n"),
            "{daemon}"
        );
    }

    #[test]
    fn the_daemon_has_no_capability_and_every_one_of_the_helpers_has_its_reason() {
        let of = |unit| {
            rows()
                .filter(move |row| row.unit == unit && row.directive == "CapabilityBoundingSet")
                .collect::<Vec<_>>()
        };
        assert!(of(Unit::Daemon).iter().all(|row| row.value.is_empty()));
        for row in of(Unit::Helper) {
            assert!(row.value.starts_with("CAP_") && !row.value.contains(' '));
            assert!(!row.why.is_empty(), "{}", row.value);
        }
    }
}
