//! Everything taken away again, in any state: each part may be gone already, and a failure of one
//! does not keep the others.

use super::host::Host;
use super::layout::{COMMAND, KEPT, PROGRAMS, VOLATILE};
use super::units::{MARK, Unit};
use super::{plan, service};
use crate::error::CliError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What there is to remove.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    /// Files and directories.
    pub(crate) paths: Vec<PathBuf>,
    /// What stays, because the owner may want it.
    pub(crate) kept: Vec<PathBuf>,
    /// What stays, because it is not ours.
    pub(crate) foreign: Vec<PathBuf>,
    /// Whether the group is there.
    pub(crate) has_group: bool,
    /// Whether the owner's data goes too.
    purge: bool,
}

impl Removal {
    /// Looks at what there is; `purge` removes the owner's data too.
    pub(crate) fn look(host: &Host, purge: bool) -> Self {
        let is_there = |path: &PathBuf| fs::symlink_metadata(host.at(path)).is_ok();
        let units: Vec<PathBuf> = Unit::ALL.map(|unit| unit.path().into()).to_vec();
        let is_foreign = |path: &PathBuf| {
            let is_unit = units.contains(path);
            let is_other_command = path == Path::new(COMMAND)
                && fs::read_link(host.at(path)).ok() != Some(Path::new(PROGRAMS).join("banger"));
            let is_other_unit =
                is_unit && host.text(path).is_some_and(|text| !text.starts_with(MARK));
            is_other_command || is_other_unit
        };
        let mut all = plan::written();
        all.extend(VOLATILE.map(PathBuf::from));
        let data = KEPT.map(PathBuf::from).into_iter().filter(is_there);
        let kept = if purge {
            all.extend(data);
            Vec::new()
        } else {
            data.collect()
        };
        let (foreign, paths) = all
            .into_iter()
            .filter(|path| fs::symlink_metadata(host.at(path)).is_ok())
            .partition(is_foreign);
        Self {
            paths,
            kept,
            foreign,
            has_group: host.succeeds("getent", &["group", banger_priv::GROUP]),
            purge,
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.has_group
    }

    /// Stops the services, has the helper take down what it made, and removes all. Gives what did
    /// not work.
    pub(crate) fn carry_out(&self, host: &Host) -> Vec<CliError> {
        let mut faults = Vec::new();
        faults.extend(service::take_down(host).err());
        let helper = Path::new(PROGRAMS).join("bangerd-root");
        if host.at(&helper).exists() {
            faults.extend(host.run(&helper.to_string_lossy(), &["teardown"]).err());
        }
        // The slice was held by VMs that are gone now.
        faults.extend(service::take_down(host).err());
        // Services that were about to start, and the helper just now, may have made directories.
        let now = Self::look(host, self.purge);
        for path in now.paths.iter().chain(&self.paths) {
            faults.extend(remove(&host.at(path)).err());
        }
        faults.extend(host.run("systemctl", &["daemon-reload"]).err());
        if self.has_group {
            faults.extend(host.run("groupdel", &[banger_priv::GROUP]).err());
        }
        faults
    }
}

/// Removes a file, or a directory with all that is in it, following no link. What is gone is no
/// error.
pub(super) fn remove(path: &Path) -> Result<(), CliError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(is) if is.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CliError::io(format!("remove {path:?}"), &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake;
    use crate::system::layout::MODULES;
    use crate::system::traces;

    fn installed(root: &Path) {
        let put = |path: &str, text: &str| {
            let path = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for unit in Unit::ALL {
            put(&unit.path(), MARK);
        }
        put(MODULES, MARK);
        put("/usr/lib/banger/bangerd-root", "");
        put("/usr/lib/banger/root/proc/x", "");
        put("/etc/banger/install.toml", "");
        put("/run/banger/bangerd.sock", "");
        put("/var/lib/bangerd-root/jail/x", "");
        put("/var/lib/banger/state/bangerd.db", "");
        put("/var/cache/banger/x", "");
        put("/usr/local/bin/other", "");
        std::os::unix::fs::symlink("/usr/lib/banger/banger", root.join("usr/local/bin/banger"))
            .unwrap();
    }

    #[test]
    fn all_goes_but_what_is_the_owners_and_again_there_is_nothing_to_do() {
        let temp = tempfile::tempdir().unwrap();
        installed(temp.path());
        let (host, told) = fake::host(temp.path());
        told.groups.borrow_mut().push("banger-ipc".into());
        told.active
            .borrow_mut()
            .extend(["bangerd.service".to_owned(), "bangerd-root.socket".into()]);
        let removal = Removal::look(&host, false);
        assert!(removal.foreign.is_empty());
        assert_eq!(removal.carry_out(&host), vec![]);
        assert_eq!(traces::left(&host), Vec::<String>::new());
        assert!(
            told.lines
                .borrow()
                .iter()
                .any(|line| line.ends_with("bangerd-root teardown"))
        );
        for kept in KEPT {
            assert!(host.at(kept).exists(), "{kept}");
        }
        assert!(host.at("/usr/local/bin/other").exists());
        assert!(Removal::look(&host, false).is_empty());
        assert_eq!(Removal::look(&host, true).carry_out(&host), vec![]);
        for kept in KEPT {
            assert!(!host.at(kept).exists(), "{kept}");
        }
        assert!(Removal::look(&host, true).is_empty());
    }

    #[test]
    fn a_failure_keeps_nothing_else_and_what_is_not_ours_stays() {
        let temp = tempfile::tempdir().unwrap();
        installed(temp.path());
        fs::write(
            temp.path().join("etc/systemd/system/bangerd.service"),
            "[Unit]\n",
        )
        .unwrap();
        fs::remove_file(temp.path().join("usr/local/bin/banger")).unwrap();
        fs::write(temp.path().join("usr/local/bin/banger"), "my own").unwrap();
        let (host, told) = fake::host(temp.path());
        *told.fails.borrow_mut() = Some("teardown".into());
        let removal = Removal::look(&host, true);
        assert_eq!(removal.foreign.len(), 2, "{removal:?}");
        assert_eq!(removal.carry_out(&host).len(), 1);
        let left = traces::left(&host);
        assert_eq!(
            left,
            [
                "file /etc/systemd/system/bangerd.service",
                "file /usr/local/bin/banger"
            ]
        );
    }
}
