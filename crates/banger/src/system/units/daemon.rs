//! The daemon's unit.

use super::{Row, Unit, row};

const fn unit(directive: &'static str, value: &'static str, why: &'static str) -> Row {
    row(Unit::Daemon, "Unit", directive, value, why)
}

const fn service(directive: &'static str, value: &'static str, why: &'static str) -> Row {
    row(Unit::Daemon, "Service", directive, value, why)
}

pub(super) const ROWS: &[Row] = &[
    unit("Description", "banger: VMs of {owner}", ""),
    unit("Requires", "bangerd-root.socket", ""),
    unit("After", "network.target bangerd-root.socket", ""),
    unit("StartLimitIntervalSec", "60", ""),
    unit(
        "StartLimitBurst",
        "30",
        "ended again and again it comes back; what can never run is left down after some seconds",
    ),
    service("Type", "notify", ""),
    service("NotifyAccess", "main", ""),
    service("ExecStart", "/usr/lib/banger/bangerd --system", ""),
    service(
        "User",
        "{owner}",
        "the owner's uid, without the owner's reach",
    ),
    service(
        "SupplementaryGroups",
        "banger-ipc",
        "may use the helper's socket",
    ),
    service("Restart", "on-failure", ""),
    service("RestartSec", "200ms", ""),
    service(
        "WatchdogSec",
        "2min",
        "not sooner: its end is the end of every `banger run`",
    ),
    service(
        "TimeoutStopSec",
        "45s",
        "VMs are let go of, which takes at most 30 s",
    ),
    service("UMask", "0077", ""),
    service("StateDirectory", "banger banger/state banger/data", ""),
    service("StateDirectoryMode", "0700", ""),
    service("CacheDirectory", "banger", ""),
    service("CacheDirectoryMode", "0700", ""),
    service("RuntimeDirectory", "banger", ""),
    service("RuntimeDirectoryMode", "0700", ""),
    service(
        "RuntimeDirectoryPreserve",
        "yes",
        "running VMs' consoles outlive a daemon",
    ),
    service("LimitNOFILE", "65536", ""),
    service("LimitCORE", "0", "no memory of it on disk"),
    service("TasksMax", "4096", ""),
    service("MemoryMax", "2G", ""),
    service("CapabilityBoundingSet", "", "none"),
    service("AmbientCapabilities", "", ""),
    service("NoNewPrivileges", "yes", ""),
    service("ProtectSystem", "strict", ""),
    service("ProtectHome", "tmpfs", "no homes"),
    service(
        "TemporaryFileSystem",
        "/var:ro {home}:ro",
        "nothing of the owner's but what is named here",
    ),
    service(
        "BindReadOnlyPaths",
        "-{config}",
        "the owner's configuration",
    ),
    service("PrivateTmp", "yes", ""),
    service(
        "InaccessiblePaths",
        "-/run/dbus -/run/docker.sock -/run/containerd -/run/podman -/run/libvirt -/run/user -/run/snapd.socket -/run/incus -/etc/ssh -/etc/shadow -/boot",
        "ways by which the owner's uid could become root",
    ),
    service("PrivateDevices", "yes", "VMMs are the helper's to start"),
    service("PrivateMounts", "yes", ""),
    service("PrivateIPC", "yes", ""),
    service("ProtectKernelTunables", "yes", ""),
    service("ProtectKernelModules", "yes", ""),
    service("ProtectKernelLogs", "yes", ""),
    service("ProtectClock", "yes", ""),
    service("ProtectHostname", "yes", ""),
    service("ProtectControlGroups", "yes", ""),
    service("ProtectProc", "invisible", ""),
    service("DevicePolicy", "closed", ""),
    service("RestrictNamespaces", "yes", ""),
    service(
        "RestrictAddressFamilies",
        "AF_UNIX AF_INET AF_INET6",
        "answers names on the bridge",
    ),
    service(
        "IPAddressDeny",
        "any",
        "it talks to this host and its VMs, not to the Internet",
    ),
    service(
        "IPAddressAllow",
        "localhost 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10",
        "the ranges that the VMs' subnet can be in",
    ),
    service("LockPersonality", "yes", ""),
    service("MemoryDenyWriteExecute", "yes", ""),
    service("RestrictRealtime", "yes", ""),
    service("SystemCallArchitectures", "native", ""),
    service("SystemCallErrorNumber", "EPERM", ""),
    service("SystemCallFilter", "@system-service", ""),
    service(
        "SystemCallFilter",
        "~@privileged @resources @keyring @obsolete userfaultfd io_uring_setup io_uring_enter io_uring_register",
        "",
    ),
    service(
        "SystemCallFilter",
        "fchown",
        "a kept disk comes back to the owner's group before each start; without capabilities to no other",
    ),
    service("KeyringMode", "private", ""),
    service("RemoveIPC", "yes", ""),
    service("NoExecPaths", "/", ""),
    service(
        "ExecPaths",
        "/usr/lib/banger -/usr/bin/ssh-keygen -/usr/sbin/e2fsck -/lib -/lib64 -/usr/lib/x86_64-linux-gnu -/usr/lib64",
        "makes VMs' host keys, checks their disks; nothing else can be run",
    ),
    row(Unit::Daemon, "Install", "WantedBy", "multi-user.target", ""),
];
