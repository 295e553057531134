//! The helper's unit.

use super::{Row, Unit, row};

const fn unit(directive: &'static str, value: &'static str, why: &'static str) -> Row {
    row(Unit::Helper, "Unit", directive, value, why)
}

const fn service(directive: &'static str, value: &'static str, why: &'static str) -> Row {
    row(Unit::Helper, "Service", directive, value, why)
}

pub(super) const ROWS: &[Row] = &[
    unit("Description", "banger's root helper", ""),
    unit("Requires", "bangerd-root.socket", ""),
    unit(
        "Wants",
        "banger.slice",
        "VMs' scopes are in it; its cgroup must be there before the helper",
    ),
    unit(
        "After",
        "bangerd-root.socket banger.slice systemd-modules-load.service",
        "",
    ),
    unit("StartLimitIntervalSec", "60", ""),
    unit("StartLimitBurst", "30", "as the daemon's"),
    service("Type", "notify", ""),
    service("NotifyAccess", "main", ""),
    service(
        "ExecStart",
        "/usr/lib/banger/bangerd-root --owner {uid} --files /var/lib/banger --files /var/cache/banger --files /run/banger",
        "who may ask, beside root, and beneath which directories the files lie that VMs are shown",
    ),
    service("Restart", "on-failure", ""),
    service("RestartSec", "200ms", ""),
    service(
        "WatchdogSec",
        "60s",
        "a helper that hangs is started anew; VMs live on in their scopes",
    ),
    service("TimeoutStopSec", "20s", ""),
    service("KillMode", "mixed", ""),
    service("User", "root", ""),
    service("UMask", "0077", ""),
    service(
        "StateDirectory",
        "bangerd-root bangerd-root/jail",
        "the VMs' jails",
    ),
    service("StateDirectoryMode", "0700", ""),
    service(
        "RuntimeDirectory",
        "bangerd-root",
        "the ledger, which lives as long as kernel objects do",
    ),
    service("RuntimeDirectoryMode", "0700", ""),
    service("RuntimeDirectoryPreserve", "yes", ""),
    service("LimitNOFILE", "65536", ""),
    service("LimitCORE", "0", "no memory of it on disk"),
    service("TasksMax", "512", ""),
    service("MemoryMax", "256M", ""),
    service("CPUQuota", "100%", "one processor, however it is asked"),
    service("OOMScoreAdjust", "-500", ""),
    service("OOMPolicy", "continue", ""),
    service(
        "RootDirectory",
        "/usr/lib/banger/root",
        "an empty skeleton: no shell, no homes, no /etc",
    ),
    service("MountAPIVFS", "yes", "/proc, /sys"),
    service(
        "BindReadOnlyPaths",
        "/dev",
        "devices that are there are opened, as far as DeviceAllow= goes; none is made here",
    ),
    service(
        "BindReadOnlyPaths",
        "/usr/lib/banger",
        "its own program, the jailer and Firecracker",
    ),
    service(
        "BindReadOnlyPaths",
        "-/usr/sbin/nft",
        "loads the static rules",
    ),
    service(
        "BindReadOnlyPaths",
        "-/usr/lib/x86_64-linux-gnu -/usr/lib64 -/lib64",
        "libraries of these programs",
    ),
    service(
        "BindReadOnlyPaths",
        "-/run/dbus",
        "systemd (scopes) and systemd-resolved (names)",
    ),
    service(
        "BindReadOnlyPaths",
        "-/run/systemd/system",
        "shows that systemd runs, so that VMs get scopes",
    ),
    service(
        "BindPaths",
        "/var/lib/banger /var/cache/banger /run/banger",
        "where the files lie that the daemon hands over by descriptor",
    ),
    service("ProtectSystem", "strict", ""),
    service("ProtectHome", "yes", ""),
    service("PrivateTmp", "yes", ""),
    service(
        "PrivateMounts",
        "yes",
        "no mount of a jail reaches the host",
    ),
    service(
        "ProtectKernelTunables",
        "yes",
        "forwarding is switched on per device, by netlink",
    ),
    service("ProtectKernelModules", "yes", ""),
    service("ProtectKernelLogs", "yes", ""),
    service("ProtectClock", "yes", ""),
    service("ProtectHostname", "yes", ""),
    service("ProtectControlGroups", "yes", ""),
    service(
        "ReadWritePaths",
        "-+/sys/fs/cgroup/banger.slice",
        "kills a VM by its own cgroup",
    ),
    service("ProtectProc", "invisible", ""),
    service(
        "CapabilityBoundingSet",
        "CAP_CHOWN",
        "gives a VM's files to its uid, and the VMM's sockets to the owner",
    ),
    service(
        "CapabilityBoundingSet",
        "CAP_DAC_OVERRIDE",
        "reaches into directories of the owner and of VMs' uids",
    ),
    service(
        "CapabilityBoundingSet",
        "CAP_KILL",
        "signals VMMs, which run under uids of their own",
    ),
    service(
        "CapabilityBoundingSet",
        "CAP_MKNOD",
        "the jailer makes /dev/kvm, /dev/net/tun and the snapshot's node in a jail",
    ),
    service(
        "CapabilityBoundingSet",
        "CAP_NET_ADMIN",
        "bridge, taps, nftables, forwarding per device",
    ),
    service(
        "CapabilityBoundingSet",
        "CAP_SETGID",
        "the jailer drops to the VM's gid",
    ),
    service(
        "CapabilityBoundingSet",
        "CAP_SETUID",
        "the jailer drops to the VM's uid",
    ),
    service(
        "CapabilityBoundingSet",
        "CAP_SYS_ADMIN",
        "the mounts of a jail, device-mapper, loop devices",
    ),
    service("AmbientCapabilities", "", ""),
    service("NoNewPrivileges", "yes", "setuid programs give nothing"),
    service("DevicePolicy", "closed", ""),
    service(
        "DeviceAllow",
        "/dev/kvm rwm",
        "made in a jail, used by Firecracker",
    ),
    service("DeviceAllow", "/dev/net/tun rwm", "taps; made in a jail"),
    service(
        "DeviceAllow",
        "/dev/userfaultfd rwm",
        "the jailer makes it where the host has it",
    ),
    service(
        "DeviceAllow",
        "/dev/loop-control rw",
        "takes a free loop device",
    ),
    service("DeviceAllow", "block-loop rw", "a snapshot's two files"),
    service(
        "DeviceAllow",
        "/dev/mapper/control rw",
        "makes and removes snapshots",
    ),
    service(
        "DeviceAllow",
        "block-device-mapper rwm",
        "hands a snapshot out for checking; made in a jail",
    ),
    service(
        "RestrictNamespaces",
        "mnt pid",
        "a jail's mounts; the jailer's own",
    ),
    service(
        "RestrictAddressFamilies",
        "AF_UNIX AF_NETLINK",
        "no Internet sockets",
    ),
    service("IPAddressDeny", "any", ""),
    service("LockPersonality", "yes", ""),
    service("MemoryDenyWriteExecute", "yes", ""),
    service("RestrictRealtime", "yes", ""),
    service("SystemCallArchitectures", "native", ""),
    service("SystemCallErrorNumber", "EPERM", ""),
    service(
        "SystemCallFilter",
        "@system-service @mount seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        "seccomp and landlock by name: Firecracker confines itself with them",
    ),
    service(
        "SystemCallFilter",
        "~@clock @cpu-emulation @debug @keyring @module @obsolete @raw-io @reboot @swap bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register",
        "",
    ),
    service("KeyringMode", "private", ""),
];
