//! The user's directory on its way into a VM: which files, and their stream.
//!
//! Inside a git work tree git says which: tracked and untracked, not ignored, as they are in the
//! work tree. Elsewhere everything. `.git` itself does not travel.

use crate::copy::pack::{Item, Tree};
use crate::copy::sink::FrameSink;
use crate::error::CliError;
use rustix::fs::FileType;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where a workspace lies in a VM.
pub(crate) const GUEST_DIR: &str = "/workspace";

/// The files of a workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    tree: Tree,
    items: Vec<Item>,
    size: u64,
    notes: Vec<String>,
}

impl Workspace {
    /// Looks which files `directory` has to bring. Nothing is read yet.
    pub(crate) fn collect(directory: &Path) -> Result<Self, CliError> {
        let tree = Tree::open(directory)?;
        let mut notes = Vec::new();
        let paths = match list_by_git(directory)? {
            Listing::Files(files) => with_parents(
                files
                    .into_iter()
                    .filter(|path| is_part(&tree, path, &mut notes)),
            ),
            Listing::NoGit => {
                let is_repository = std::path::absolute(directory)
                    .is_ok_and(|path| path.ancestors().any(|dir| dir.join(".git").exists()));
                if is_repository {
                    notes.push("git is not installed: ignored files are copied too".to_owned());
                }
                tree.walk(Path::new(""))?.into_iter().collect()
            }
            Listing::NoWorkTree => tree.walk(Path::new(""))?.into_iter().collect(),
        };
        let mut size = 0_u64;
        let mut items = Vec::with_capacity(paths.len());
        for path in paths {
            let is_git = path.components().any(|part| part.as_os_str() == ".git");
            let Some(stat) = tree.look(&path)?.filter(|_| !is_git) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                size = size.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
            items.push(Item {
                name: path.clone(),
                source: path,
            });
        }
        Ok(Self {
            tree,
            items,
            size,
            notes,
        })
    }

    /// The bytes that its files have, roughly: what is shown as the whole.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// How many files, directories and links it has.
    pub(crate) fn count(&self) -> usize {
        self.items.len()
    }

    /// What the user should know about what is not in it.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Sends it as a tar stream.
    pub(crate) fn pack(self, sink: FrameSink) -> Result<(), CliError> {
        let (sink, _) = self.tree.pack(&self.items, sink)?;
        sink.finish()
            .map_err(|source| CliError::io("send the end of the workspace", &source))
    }
}

enum Listing {
    Files(BTreeSet<PathBuf>),
    NoWorkTree,
    NoGit,
}

/// What git says belongs to the work tree that `directory` is in.
fn list_by_git(directory: &Path) -> Result<Listing, CliError> {
    let inside = match git(directory, &["rev-parse", "--is-inside-work-tree"]) {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listing::NoGit),
        Err(error) => return Err(CliError::io("start git", &error)),
    };
    if !inside.status.success() {
        let said = String::from_utf8_lossy(&inside.stderr).into_owned();
        if said.contains("not a git repository") {
            return Ok(Listing::NoWorkTree);
        }
        // Walking instead would bring ignored files along: secrets, perhaps.
        return Err(git_failed(directory, &said));
    }
    if inside.stdout != b"true\n" {
        return Ok(Listing::NoWorkTree);
    }
    let arguments = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let listed = git(directory, &arguments).map_err(|source| CliError::io("start git", &source))?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr).into_owned();
        return Err(git_failed(directory, &said));
    }
    let paths = listed.stdout.split(|&b| b == 0).filter(|p| !p.is_empty());
    Ok(Listing::Files(
        paths
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
            .collect(),
    ))
}

fn git_failed(directory: &Path, said: &str) -> CliError {
    let mut error = CliError::failed(format!("ask git which files {directory:?} has"));
    error.causes.extend(said.lines().take(3).map(str::to_owned));
    error.hint(format!("git -C {} status", directory.display()))
}

/// Runs git on `directory`, with nothing but its arguments saying which repository is meant.
fn git(directory: &Path, arguments: &[&str]) -> io::Result<Output> {
    let mut command = Command::new("git");
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(variable);
    }
    command
        // A repository's own configuration may name a program to run.
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(directory)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
}

/// Whether a path that git lists is a file of this work tree: it may be gone, or be a submodule
/// or another repository.
fn is_part(tree: &Tree, path: &Path, notes: &mut Vec<String>) -> bool {
    match tree.look(path) {
        Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            notes.push(format!(
                "{path:?} is a git repository of its own (a submodule, perhaps): not copied"
            ));
            false
        }
        Ok(found) => found.is_some(),
        // It is reported when it is packed.
        Err(_) => true,
    }
}

/// The paths and the directories they are in; a directory sorts before what is in it.
fn with_parents(files: impl Iterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for file in files {
        let parents = file.ancestors().skip(1);
        all.extend(
            parents
                .filter(|parent| !parent.as_os_str().is_empty())
                .map(Path::to_owned),
        );
        all.insert(file);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let workspace = Workspace::collect(directory).unwrap();
        let names = workspace.items.iter();
        names.map(|item| item.name.display().to_string()).collect()
    }

    fn run_git(directory: &Path, arguments: &[&str]) {
        let output = git(directory, arguments).unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn git_decides_inside_a_work_tree() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        run_git(root, &["init", "-q"]);
        std::fs::create_dir_all(root.join("src/deep")).unwrap();
        for file in ["tracked", "deleted", "src/deep/new", "ignored.log"] {
            std::fs::write(root.join(file), file).unwrap();
        }
        std::fs::write(root.join(".gitignore"), "*.log\n").unwrap();
        run_git(root, &["add", "tracked", "deleted", ".gitignore"]);
        std::fs::remove_file(root.join("deleted")).unwrap();
        let inner = root.join("inner");
        std::fs::create_dir(&inner).unwrap();
        run_git(&inner, &["init", "-q"]);
        std::fs::write(inner.join("file"), "").unwrap();
        run_git(&inner, &["add", "file"]);

        assert_eq!(
            names(root),
            [".gitignore", "src", "src/deep", "src/deep/new", "tracked"]
        );
        let workspace = Workspace::collect(root).unwrap();
        assert!(
            workspace.notes()[0].contains("inner"),
            "{:?}",
            workspace.notes()
        );
        assert_eq!(names(&root.join("src")), ["deep", "deep/new"]);
    }

    #[test]
    fn everything_comes_along_elsewhere() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("sub")).unwrap();
        std::fs::write(temp.path().join("sub/ignored.log"), "x").unwrap();
        assert_eq!(names(temp.path()), ["sub", "sub/ignored.log"]);
    }
}
