//! The host's reserved 2 MiB pages: whether a machine's memory can be of them.

use std::fs;
use std::path::Path;

/// Where the kernel tells of them.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Whether so many MiB are free in the pool. Two machines that ask at the same moment may both
/// be told yes: the one that comes short ends with a bus error, which is told as such.
pub(super) fn suffice(mem_mib: u32) -> bool {
    free(Path::new(POOL)).is_some_and(|pages| mem_mib.is_multiple_of(2) && pages >= mem_mib / 2)
}

/// Pages that nobody has or was promised.
fn free(pool: &Path) -> Option<u32> {
    let read = |name| -> Option<u32> {
        let text = fs::read_to_string(pool.join(name)).ok()?;
        text.trim().parse().ok()
    };
    read("free_hugepages")?.checked_sub(read("resv_hugepages")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_pages_are_not_free() {
        let pool = tempfile::tempdir().unwrap();
        assert_eq!(free(pool.path()), None, "a kernel without such pages");
        let write = |name, text| fs::write(pool.path().join(name), text).unwrap();
        write("free_hugepages", "640\n");
        write("resv_hugepages", "128\n");
        assert_eq!(free(pool.path()), Some(512));
        write("resv_hugepages", "641\n");
        assert_eq!(free(pool.path()), None);
    }
}
