//! Finds QEMU and its firmware.

use std::path::PathBuf;

use crate::program::{Found, Missing, Version, Wanted};

const QEMU: Wanted = Wanted {
    program: "qemu-system-x86_64",
    before_version: "QEMU emulator version ",
    fix: "install it: sudo apt-get install qemu-system-x86",
};

/// Where distributions and local builds put it, before PATH is asked.
const DIRS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// Where distributions put a small firmware that starts a PVH kernel 0.1 s earlier than
/// SeaBIOS does under emulation.
const QBOOT: [&str; 3] = [
    "/usr/share/qemu/qboot.rom",
    "/usr/share/seabios/qboot.rom",
    "/usr/share/qboot/qboot.rom",
];

/// The oldest version that is known to work.
pub(crate) const OLDEST: Version = Version::new(7, 2, 0);

/// Finds the program and asks its version. Blocks for some 20 ms, at most 10 s.
pub(crate) fn find() -> Result<Found, Missing> {
    let path = std::env::var_os("PATH");
    QEMU.find(&DIRS.map(PathBuf::from), path.as_deref())
}

/// The small firmware, where it is installed.
pub(crate) fn qboot() -> Option<PathBuf> {
    QBOOT.map(PathBuf::from).into_iter().find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_versions_that_distributions_write() {
        for (text, shown) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright",
                "7.2.22",
            ),
            ("QEMU emulator version 9.1.2 (qemu-9.1.2-1.fc41)", "9.1.2"),
            ("QEMU emulator version 10.0.0\n", "10.0.0"),
        ] {
            let number = text.strip_prefix(QEMU.before_version).unwrap();
            let version = Version::parse(number).unwrap();
            assert_eq!(version.to_string(), shown);
            assert!(version >= OLDEST);
        }
        assert!(Version::parse("6.2.0 (Debian)").unwrap() < OLDEST);
    }
}
