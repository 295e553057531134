//! Finding a command's file in a PATH that is not the agent's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_guest::request::{Failure, FailureCode};

use crate::stream::failure;

/// The file that `name` means: itself if it has a `/`, else the first executable file of that name in
/// `path`, whose relative entries are meant from `cwd`.
///
/// Found but not executable is told apart from not found, as shells do (126 and 127).
pub(super) fn find(name: &str, path: &str, cwd: &Path) -> Result<String, Failure> {
    if name.contains('/') {
        return check(name, &cwd.join(name)).map(|()| name.to_owned());
    }
    let mut refused = None;
    let candidates = path.split(':').filter(|_| !name.is_empty());
    for directory in candidates {
        let file: PathBuf = cwd.join(directory).join(name);
        match check(name, &file) {
            Ok(()) => return Ok(file.to_string_lossy().into_owned()),
            Err(failure) if failure.code == FailureCode::NotExecutable => {
                refused.get_or_insert(failure);
            }
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| {
        failure(
            FailureCode::NotFound,
            format!("command {name:?} was not found in PATH {path:?}"),
        )
    }))
}

fn check(name: &str, file: &Path) -> Result<(), Failure> {
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(failure(
            FailureCode::NotExecutable,
            format!("command {name:?}: {file:?} is not executable"),
        )),
        Err(error) => Err(failure(
            FailureCode::NotFound,
            format!("command {name:?}: {file:?}: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, name: &str, mode: u32) {
        let file = dir.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_executable_wins_and_refusals_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        make(root, "a/tool", 0o644);
        make(root, "b/tool", 0o755);
        make(root, "a/data", 0o644);
        std::fs::create_dir(root.join("b/folder")).unwrap();
        let path = format!("{0}/none:{0}/a:{0}/b", root.display());
        let found = |name| find(name, &path, root);
        assert_eq!(
            found("tool").unwrap(),
            root.join("b/tool").to_str().unwrap()
        );
        let code = |name| found(name).unwrap_err().code;
        assert_eq!(code("data"), FailureCode::NotExecutable);
        assert_eq!(code("folder"), FailureCode::NotExecutable);
        assert_eq!(code("missing"), FailureCode::NotFound);
        assert_eq!(code(""), FailureCode::NotFound);
        // With a slash PATH does not matter, the working directory does.
        assert_eq!(found("b/tool").unwrap(), "b/tool");
        assert_eq!(code("./tool"), FailureCode::NotFound);
        assert_eq!(code("a/data"), FailureCode::NotExecutable);
    }
}
