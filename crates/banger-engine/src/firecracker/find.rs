//! Finds Firecracker.

use std::path::PathBuf;

use crate::program::{Found, Missing, Version, Wanted};

const FIRECRACKER: Wanted = Wanted {
    program: "firecracker",
    before_version: "Firecracker v",
    fix: "put the firecracker of release 1.14.4, 1.15.1 or later into /usr/local/bin",
};

/// Where it is put by hand or by a package, before PATH is asked.
const DIRS: [&str; 2] = ["/usr/local/bin", "/usr/bin"];

/// The oldest version that can be used: the first with ACPI, without which distributions'
/// kernels find none of its devices.
const OLDEST: Version = Version::new(1, 8, 0);

/// Finds the program and asks its version. Blocks for some milliseconds, at most 10 s.
pub(crate) fn find() -> Result<Found, Missing> {
    let path = std::env::var_os("PATH");
    let beside = std::env::current_exe().ok();
    let own = beside
        .iter()
        .filter_map(|exe| exe.parent())
        .flat_map(|dir| [dir.to_owned(), dir.join("../lib/banger")]);
    let dirs: Vec<PathBuf> = own.chain(DIRS.map(PathBuf::from)).collect();
    let found = FIRECRACKER.find(&dirs, path.as_deref())?;
    if found.version < OLDEST {
        return Err(FIRECRACKER.missing(format!(
            "{:?} is version {}; the oldest that can be used is {OLDEST}",
            found.path, found.version
        )));
    }
    Ok(found)
}
