//! Where an installation's things lie. Nothing else of banger is written outside these paths.

use banger_api::InstallPaths;
use std::path::{Path, PathBuf};

/// The programs, and the root directory that the helper sees.
pub const PROGRAMS: &str = "/usr/lib/banger";
/// What the helper has for a root directory: empty but for what its unit binds into it.
pub const HELPER_ROOT: &str = "/usr/lib/banger/root";
/// The unit files.
pub const UNITS: &str = "/etc/systemd/system";
/// Kernel modules that are loaded at boot.
pub const MODULES: &str = "/etc/modules-load.d/banger.conf";
/// What udev leaves alone.
pub const UDEV_RULES: &str = "/etc/udev/rules.d/05-banger.rules";
/// The command, where it is found; a link to the installed program.
pub const COMMAND: &str = "/usr/local/bin/banger";
/// The directory of the record of the installation.
pub const RECORD: &str = "/etc/banger";
/// What stays when banger is uninstalled without `--purge`: the owner's VMs, kernels and images.
pub const KEPT: [&str; 2] = ["/var/lib/banger", "/var/cache/banger"];
/// What the services make and uninstalling removes.
pub const VOLATILE: [&str; 4] = [
    "/run/banger",
    "/run/banger-ipc",
    "/run/bangerd-root",
    "/var/lib/bangerd-root",
];
/// The programs that are installed: the name, and whether it is banger's own.
pub const PROGRAM_NAMES: [(&str, bool); 6] = [
    ("bangerd", true),
    ("bangerd-root", true),
    ("banger-agent", true),
    ("banger", true),
    ("firecracker", false),
    ("jailer", false),
];
/// Modules that VMs need, and the file that shows that one is there, whether loaded or built in.
pub const MODULE_NAMES: [(&str, &str); 5] = [
    ("tun", "/dev/net/tun"),
    ("loop", "/dev/loop-control"),
    ("dm_mod", "/dev/mapper/control"),
    ("dm_snapshot", "/sys/module/dm_snapshot"),
    ("bridge", "/sys/module/bridge"),
];
/// The first uid of VMs, which is also the gid, and how many there are.
pub const VM_UIDS: (u32, u32) = (1_900_000_000, 4096);

/// What the record says about where things are.
pub fn paths(config: &Path) -> InstallPaths {
    InstallPaths {
        programs: PROGRAMS.into(),
        runtime: "/run/banger".into(),
        state: "/var/lib/banger/state".into(),
        data: "/var/lib/banger/data".into(),
        cache: "/var/cache/banger".into(),
        config: config.to_owned(),
    }
}

/// The owner's configuration below a home directory.
pub fn config_dir(home: &Path) -> PathBuf {
    home.join(".config/banger")
}
