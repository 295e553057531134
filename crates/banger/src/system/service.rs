//! The services: brought up, put back, taken down.

use super::host::Host;
use super::layout::{KEPT, VOLATILE};
use super::remove::remove;
use super::units::Unit;
use crate::error::CliError;

/// What is enabled, so that it comes with the next boot. The socket starts the helper.
const ENABLED: [Unit; 2] = [Unit::Socket, Unit::Daemon];

/// All, in the order in which they are stopped.
const STOPPED: [Unit; 3] = [Unit::Daemon, Unit::Helper, Unit::Socket];

/// How the services were before an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    /// Those that were active.
    active: Vec<Unit>,
    /// Whether the units were there.
    was_there: bool,
    /// Directories that the services make, and that were not there.
    fresh: Vec<&'static str>,
}

impl Before {
    /// Looks at the services.
    pub(crate) fn look(host: &Host) -> Self {
        Self {
            active: ENABLED
                .into_iter()
                .filter(|unit| is_active(host, *unit))
                .collect(),
            was_there: host.at(Unit::Daemon.path()).exists(),
            fresh: VOLATILE
                .into_iter()
                .chain(KEPT)
                .filter(|path| !host.at(path).exists())
                .collect(),
        }
    }

    /// Whether both run.
    pub(crate) fn is_up(&self) -> bool {
        self.active.len() == ENABLED.len()
    }
}

/// Whether a unit is active.
pub(crate) fn is_active(host: &Host, unit: Unit) -> bool {
    host.succeeds("systemctl", &["is-active", "--quiet", unit.file()])
}

/// In which state systemd has this host's daemon, in its word; empty where it does not say.
pub(crate) fn daemon_state() -> String {
    let asked = [
        "show",
        "--property=ActiveState",
        "--value",
        Unit::Daemon.file(),
    ];
    let said = Host::here().run("systemctl", &asked);
    said.unwrap_or_default().trim().to_owned()
}

/// Starts the services, those that run anew. VMs have scopes of their own and go on.
pub(crate) fn bring_up(host: &Host) -> Result<(), CliError> {
    systemctl(host, &["enable", "--quiet", "--no-reload"], &ENABLED)?;
    // Once for all: it takes as long as there are many units.
    host.run("systemctl", &["daemon-reload"])?;
    stop(host)?;
    // Each returns when it is ready: they are of the type notify. The helper last: what it may see
    // of the host is there once the daemon is.
    for unit in [Unit::Socket, Unit::Daemon, Unit::Helper] {
        systemctl(host, &["start"], &[unit])
            .map_err(|error| error.hint("journalctl -b -u bangerd -u bangerd-root"))?;
    }
    Ok(())
}

/// Stops the services; those that do not run are no error.
pub(crate) fn stop(host: &Host) -> Result<(), CliError> {
    for unit in STOPPED {
        // One that fails again and again is not active, but is started again.
        if host.at(unit.path()).exists() || is_active(host, unit) {
            host.run("systemctl", &["stop", unit.file()])?;
        }
    }
    Ok(())
}

/// Stops the services and takes them out of the boot, which systemd has yet to be told by
/// `daemon-reload`.
pub(crate) fn take_down(host: &Host) -> Result<(), CliError> {
    stop(host)?;
    for unit in STOPPED {
        // One that failed keeps its unit's name otherwise.
        let _was_failed = host.run("systemctl", &["reset-failed", unit.file()]);
    }
    if host.at(Unit::Daemon.path()).exists() || host.at(Unit::Socket.path()).exists() {
        systemctl(host, &["disable", "--quiet", "--no-reload"], &ENABLED)?;
    }
    if is_active(host, Unit::Slice) {
        host.run("systemctl", &["stop", Unit::Slice.file()])?;
    }
    Ok(())
}

/// After a failed installation, once its files are undone: the services as they were before. Gives
/// what could not be put back.
pub(crate) fn put_back(host: &Host, before: &Before) -> Vec<String> {
    let mut left = Vec::new();
    let mut must = |result: Result<(), CliError>| {
        if let Err(error) = result {
            left.push(format!("undo: {error}"));
        }
    };
    must(host.run("systemctl", &["daemon-reload"]).map(drop));
    for path in &before.fresh {
        must(remove(&host.at(path)));
    }
    if before.was_there && !before.active.is_empty() {
        must(systemctl(host, &["start"], &before.active));
    }
    left
}

fn systemctl(host: &Host, verb: &[&str], units: &[Unit]) -> Result<(), CliError> {
    let mut arguments = verb.to_vec();
    arguments.extend(units.iter().map(|unit| unit.file()));
    host.run("systemctl", &arguments).map(drop)
}

/// Before the files of a failed installation are undone: what it started is stopped, and, if it
/// was new, taken out of the boot.
pub(crate) fn withdraw(host: &Host, before: &Before) -> Vec<String> {
    let result = if before.was_there {
        stop(host)
    } else {
        take_down(host)
    };
    match result {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("undo: {error}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::{self, picture};
    use std::fs;

    #[test]
    fn what_a_failed_first_installation_started_is_gone_again() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("var/lib")).unwrap();
        fs::create_dir_all(temp.path().join("var/cache/banger")).unwrap();
        let (host, told) = fake::host(temp.path());
        let picture_before = picture(temp.path());
        let before = Before::look(&host);
        assert!(!before.is_up());
        *told.fails.borrow_mut() = Some("start bangerd-root.socket".into());
        fs::create_dir_all(temp.path().join("var/lib/banger/state")).unwrap();
        assert!(bring_up(&host).is_err());
        assert_eq!(withdraw(&host, &before), Vec::<String>::new());
        assert_eq!(put_back(&host, &before), Vec::<String>::new());
        assert_eq!(picture(temp.path()), picture_before);
    }

    #[test]
    fn after_a_failed_upgrade_the_services_run_as_before() {
        let temp = tempfile::tempdir().unwrap();
        let unit = temp.path().join("etc/systemd/system/bangerd.service");
        fs::create_dir_all(unit.parent().unwrap()).unwrap();
        fs::write(&unit, "").unwrap();
        let (host, told) = fake::host(temp.path());
        let names = [
            "bangerd-root.socket".to_owned(),
            "bangerd.service".to_owned(),
        ];
        *told.active.borrow_mut() = names.to_vec();
        let before = Before::look(&host);
        assert!(before.is_up());
        bring_up(&host).unwrap();
        assert_eq!(withdraw(&host, &before), Vec::<String>::new());
        assert!(
            told.active
                .borrow()
                .iter()
                .all(|name| !names.contains(name))
        );
        assert_eq!(put_back(&host, &before), Vec::<String>::new());
        assert!(names.iter().all(|name| told.active.borrow().contains(name)));
        let lines = told.lines.borrow();
        assert!(
            !lines.iter().any(|line| line.contains("disable")),
            "{lines:?}"
        );
    }
}
