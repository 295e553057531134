//! A host for tests: a directory, and programs that remember what they were told.

use super::host::{Host, Programs};
use crate::error::CliError;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

/// What a test sees and sets of the programs of a fake host.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The command lines that came.
    pub(crate) lines: RefCell<Vec<String>>,
    /// Groups that exist.
    pub(crate) groups: RefCell<Vec<String>>,
    /// Units that are active.
    pub(crate) active: RefCell<Vec<String>>,
    /// A command line that contains this fails.
    pub(crate) fails: RefCell<Option<String>>,
    /// How many have failed so.
    pub(crate) failed: Cell<u32>,
}

#[derive(Debug)]
struct FakePrograms(Rc<Told>);

/// A host whose files are below `root`.
pub(crate) fn host(root: &Path) -> (Host, Rc<Told>) {
    let told = Rc::new(Told::default());
    let programs = Box::new(FakePrograms(Rc::clone(&told)));
    (Host::new(root, programs), told)
}

impl Programs for FakePrograms {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, CliError> {
        let told = &self.0;
        let line = format!("{program} {}", arguments.join(" "));
        told.lines.borrow_mut().push(line.clone());
        if told
            .fails
            .borrow()
            .as_ref()
            .is_some_and(|part| line.contains(part.as_str()))
        {
            told.failed.set(told.failed.get() + 1);
            return Err(CliError::failed(format!("run {line}: told to fail")));
        }
        let last = arguments.last().copied().unwrap_or_default().to_owned();
        let no = |why: &str| Err(CliError::failed(format!("run {line}: {why}")));
        let mut groups = told.groups.borrow_mut();
        let mut active = told.active.borrow_mut();
        match (program, arguments) {
            ("getent", ["group", name]) if groups.iter().any(|group| group == name) => {
                Ok(format!("{name}:x:990:\n"))
            }
            ("getent", _) => no("not found"),
            ("groupadd", _) => {
                groups.push(last);
                Ok(String::new())
            }
            ("groupdel", _) => {
                groups.retain(|group| *group != last);
                Ok(String::new())
            }
            ("systemctl", ["is-active", ..]) if !active.contains(&last) => no("inactive"),
            ("systemctl", ["start", units @ ..]) => {
                active.extend(units.iter().map(|unit| (*unit).to_owned()));
                Ok(String::new())
            }
            ("systemctl", ["stop" | "disable", units @ ..]) => {
                active.retain(|unit| !units.contains(&unit.as_str()));
                Ok(String::new())
            }
            _ => Ok(String::new()),
        }
    }
}

/// All paths below `root`, each with what is in it, sorted: two equal ones are equal hosts.
pub(crate) fn picture(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let is = std::fs::symlink_metadata(&path).unwrap();
            let mode = std::os::unix::fs::MetadataExt::mode(&is);
            let what = if is.is_dir() {
                open.push(path.clone());
                String::new()
            } else {
                std::fs::read_to_string(&path).unwrap_or_default()
            };
            found.push(format!("{} {mode:o} {what}", path.display()));
        }
    }
    found.sort();
    found
}
