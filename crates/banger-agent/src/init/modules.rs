//! The engine's kernel modules, inserted in the order that the initramfs gives.

use std::fs::File;
use std::path::Path;

use banger_guest::boot::MODULES_LIST_PATH;
use rustix::io::Errno;
use rustix::system::finit_module;

use super::{InitError, failed};
use crate::serve::read_small;

const MAX_LIST: u64 = 64 * 1024;

/// Inserts all; no list means a kernel that has what it needs. One that is there already is no failure.
pub(super) fn insert_all() -> Result<(), InitError> {
    let list = match read_small(MODULES_LIST_PATH, MAX_LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(format!("read {MODULES_LIST_PATH}"))(error)),
    };
    let dir = Path::new(MODULES_LIST_PATH).with_file_name("");
    for name in list.lines().filter(|line| !line.is_empty()) {
        let path = dir.join(name);
        let file = File::open(&path).map_err(failed(format!("open module {path:?}")))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(format!("insert module {path:?}"))(errno)),
        }
    }
    Ok(())
}
