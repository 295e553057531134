//! What installing consists of, decided from what was found. Nothing is changed here.

use super::layout::{
    COMMAND, HELPER_ROOT, MODULE_NAMES, MODULES, PROGRAM_NAMES, PROGRAMS, RECORD, UDEV_RULES,
    config_dir, paths,
};
use super::owner::OwnerFacts;
use super::programs::Program;
use super::steps::{Content, Step, beside};
use super::units::{MARK, Unit, render};
use crate::error::CliError;
use banger_api::{Install, Owner};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const UDEV: &str = include_str!("../../../../packaging/udev/05-banger.rules");

/// All steps, in order. `now` is the time, in seconds since 1970, and `there` what is installed.
pub(crate) fn install(
    owner: &OwnerFacts,
    programs: &[Program],
    there: Option<&Install>,
    now: u64,
) -> Result<Vec<Step>, CliError> {
    let mut steps = vec![Step::Group(banger_priv::GROUP)];
    for path in [PROGRAMS, HELPER_ROOT] {
        steps.push(directory(path.into()));
    }
    // systemd makes what it binds to; the links make the usual paths.
    let root = Path::new(HELPER_ROOT);
    for (path, target) in [("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        steps.push(Step::Link {
            path: root.join(path),
            target: target.into(),
        });
    }
    steps.extend(programs.iter().map(|program| Step::File {
        path: Path::new(PROGRAMS).join(program.name),
        content: Content::Copy(program.from.clone()),
        mode: 0o755,
    }));
    let names: String = MODULE_NAMES.map(|(name, _)| format!("{name}\n")).concat();
    steps.push(text(MODULES, format!("{MARK}\n{names}")));
    steps.extend(MODULE_NAMES.map(|(name, _)| Step::Module(name)));
    // udev sees by itself that there is a new file.
    steps.push(text(UDEV_RULES, format!("{MARK}\n{UDEV}")));
    steps.extend(Unit::ALL.map(|unit| text(&unit.path(), render(unit, owner))));
    steps.push(directory(RECORD.into()));
    steps.push(text(Install::FILE, record(owner, &steps, there, now)?));
    steps.push(Step::Link {
        path: COMMAND.into(),
        target: Path::new(PROGRAMS).join("banger"),
    });
    Ok(steps)
}

/// The record of the installation, with the digests of what is written. Without a change it is
/// the one that is there.
fn record(
    owner: &OwnerFacts,
    steps: &[Step],
    there: Option<&Install>,
    now: u64,
) -> Result<String, CliError> {
    let mut files = BTreeMap::new();
    for step in steps {
        if let Step::File { path, content, .. } = step {
            files.insert(path.clone(), content.digest()?);
        }
    }
    let mut install = Install {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        installed_unix: now,
        owner: Owner {
            name: owner.name.clone(),
            uid: owner.uid,
        },
        paths: paths(&config_dir(&owner.home).join("config.toml")),
        files,
    };
    if let Some(there) = there {
        let before = there.installed_unix;
        install.installed_unix = before;
        if install != *there {
            install.installed_unix = now;
        }
    }
    let body = toml::to_string(&install)
        .map_err(|source| CliError::failed("write the record").because(&source))?;
    Ok(format!("{MARK}\n{body}"))
}

/// Every path that an installation writes, one that was killed too, in the order in which they are
/// removed.
pub(crate) fn written() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Unit::ALL.map(|unit| unit.path().into()).to_vec();
    paths.extend([MODULES, UDEV_RULES].map(PathBuf::from));
    // The others' directories are removed whole.
    paths.extend(paths.clone().iter().flat_map(|path| beside(path)));
    paths.push(COMMAND.into());
    paths.extend(PROGRAM_NAMES.map(|(name, _)| Path::new(PROGRAMS).join(name)));
    paths.extend([PROGRAMS, RECORD].map(PathBuf::from));
    paths
}

fn directory(path: PathBuf) -> Step {
    Step::Directory { path, mode: 0o755 }
}

fn text(path: &str, text: String) -> Step {
    Step::File {
        path: path.into(),
        content: Content::Text(text),
        mode: 0o644,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_installation_has_the_same_record_and_a_changed_one_a_new_time() {
        let temp = tempfile::tempdir().unwrap();
        let from = temp.path().join("bangerd");
        std::fs::write(&from, "1").unwrap();
        let owner = OwnerFacts {
            name: "dev".into(),
            uid: 1000,
            home: "/home/dev".into(),
        };
        let programs = [Program {
            name: "bangerd",
            from: from.clone(),
        }];
        let record = |there: Option<&Install>, now| -> Install {
            let steps = install(&owner, &programs, there, now).unwrap();
            let text = steps.iter().find_map(|step| match step {
                Step::File {
                    path,
                    content: Content::Text(text),
                    ..
                } if path == Path::new(Install::FILE) => Some(text.clone()),
                _ => None,
            });
            toml::from_str(&text.unwrap()).unwrap()
        };
        let first = record(None, 100);
        assert_eq!(first.installed_unix, 100);
        assert_eq!(record(Some(&first), 200), first);
        std::fs::write(&from, "2").unwrap();
        let second = record(Some(&first), 200);
        assert_eq!(second.installed_unix, 200);
        assert_ne!(second.files, first.files);
    }
}
