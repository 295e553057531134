//! The programs that are installed: where they come from and which versions they are.

use super::host::Host;
use super::layout::{PROGRAM_NAMES, PROGRAMS};
use super::owner::OwnerFacts;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name.
    pub(crate) name: &'static str,
    /// Where it is copied from.
    pub(crate) from: PathBuf,
}

/// Looks for all programs: banger's own beside this one, the others in `firecracker` (what
/// `--firecracker` says) or where programs are; those installed already will do. Gives what was
/// found, and the names of what was not.
pub(crate) fn find(
    host: &Host,
    own: &Path,
    firecracker: Option<&Path>,
) -> (Vec<Program>, Vec<&'static str>) {
    let installed = host.at(PROGRAMS);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for (name, is_own) in PROGRAM_NAMES {
        let mut places = Vec::new();
        match firecracker {
            _ if is_own => places.extend([own.to_owned(), installed.clone()]),
            Some(dir) => places.push(dir.to_owned()),
            None => {
                places.push(host.at("/usr/local/bin"));
                places.extend(std::env::split_paths(&path).filter(|dir| dir.is_absolute()));
                places.push(installed.clone());
            }
        }
        match places
            .into_iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
        {
            Some(from) => found.push(Program { name, from }),
            None => missing.push(name),
        }
    }
    (found, missing)
}

/// What a program says to `--version`, as its last word that looks like one. It is run as the
/// owner: it may be the owner's own and has no business as root.
pub(crate) fn version(program: &Path, owner: &OwnerFacts) -> Option<(u32, u32, u32)> {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid).gid(owner.uid);
    }
    let output = command.output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    text.lines()
        .next()?
        .split_whitespace()
        .rev()
        .find_map(|word| {
            let mut parts = word.trim_start_matches('v').split(['.', '-']);
            let mut next = || parts.next()?.parse().ok();
            Some((next()?, next()?, next()?))
        })
}

/// Whether this version of the jailer follows a link that it finds in a jail (CVE-2026-1386).
pub(crate) fn is_faulty_jailer(version: (u32, u32, u32)) -> bool {
    version <= (1, 13, 1) || ((1, 14, 0)..=(1, 14, 3)).contains(&version) || version == (1, 15, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_faulty_ones_known() {
        assert_eq!(parse_version("Jailer v1.12.1\n\n2025"), Some((1, 12, 1)));
        assert_eq!(parse_version("Firecracker v1.15.1-dev\n"), Some((1, 15, 1)));
        assert_eq!(parse_version(""), None);
        assert_eq!(parse_version("no version\n"), None);
        for faulty in [(1, 12, 1), (1, 13, 1), (1, 14, 0), (1, 14, 3), (1, 15, 0)] {
            assert!(is_faulty_jailer(faulty), "{faulty:?}");
        }
        for good in [(1, 14, 4), (1, 15, 1), (1, 16, 0), (2, 0, 0)] {
            assert!(!is_faulty_jailer(good), "{good:?}");
        }
    }

    #[test]
    fn programs_are_taken_from_where_they_should_be() {
        let temp = tempfile::tempdir().unwrap();
        let (host, _) = crate::system::fake::host(temp.path());
        let own = temp.path().join("dist");
        let fc = temp.path().join("fc");
        for dir in [&own, &fc, &temp.path().join("usr/local/bin")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        for name in ["banger", "bangerd", "bangerd-root"] {
            std::fs::write(own.join(name), "").unwrap();
        }
        std::fs::write(temp.path().join("usr/local/bin/jailer"), "").unwrap();
        std::fs::write(fc.join("firecracker"), "").unwrap();
        let (found, missing) = find(&host, &own, Some(&fc));
        assert_eq!(missing, ["banger-agent", "jailer"]);
        assert!(
            found
                .iter()
                .all(|p| p.from.starts_with(&own) || p.from.starts_with(&fc))
        );
        let (found, _) = find(&host, &own, None);
        let jailer = found
            .iter()
            .find(|program| program.name == "jailer")
            .unwrap();
        assert!(jailer.from.starts_with(temp.path().join("usr/local/bin")));
    }
}
