//! The root helper's verbs, as `docs/privileges.md` shows them.

/// A verb, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does, as root.
    pub(crate) does: &'static str,
    /// What it takes.
    pub(crate) takes: &'static str,
    /// What it checks, and so refuses.
    pub(crate) gate: &'static str,
    /// What undoes it.
    pub(crate) undone_by: &'static str,
}

/// All of them, in the order of `banger_priv::Request`.
pub(crate) const METHODS: [Method; 18] = [
    Method {
        name: "priv.status",
        does: "tells the helper's version and what it made for which VM",
        takes: "nothing",
        gate: "the caller only",
        undone_by: "changes nothing",
    },
    Method {
        name: "priv.ensure_bridge",
        does: "makes the bridge with its address, per-device forwarding and the nft tables `banger`",
        takes: "a bridge name, a subnet",
        gate: "name `br-fc` or `br-fc-*`; private subnet, prefix 8 to 30; an existing link must carry our mark and \
               address; no overlap with another link's address or route",
        undone_by: "`banger system uninstall`, or `priv.reclaim` when it was left half made",
    },
    Method {
        name: "priv.create_tap",
        does: "makes the VM's tap, owned by the VM's uid, an isolated port of the bridge, and the \
               rules that bind it to one MAC and one address",
        takes: "a VM, an address",
        gate: "the address is a guest's in the bridge's subnet and no other VM's; the VM has no tap yet",
        undone_by: "`priv.remove_tap`",
    },
    Method {
        name: "priv.remove_tap",
        does: "removes the VM's tap and rules",
        takes: "a VM",
        gate: "the link carries the mark of this VM and generation",
        undone_by: "`priv.create_tap`",
    },
    Method {
        name: "priv.ensure_nat",
        does: "lets the VM's address out, masqueraded",
        takes: "a VM",
        gate: "the VM has a tap, made by the helper; the address is the ledger's, not the caller's",
        undone_by: "`priv.clear_nat`, `priv.remove_tap`",
    },
    Method {
        name: "priv.clear_nat",
        does: "ends that",
        takes: "a VM",
        gate: "the VM is in the ledger",
        undone_by: "`priv.ensure_nat`",
    },
    Method {
        name: "priv.sync_resolver_routing",
        does: "has systemd-resolved send queries for names in `vm`, and no others, to the daemon",
        takes: "a port",
        gate: "port 1024 or above; the zone and the bridge's address are the helper's own",
        undone_by: "`priv.clear_resolver_routing`",
    },
    Method {
        name: "priv.clear_resolver_routing",
        does: "reverts the bridge's settings in systemd-resolved",
        takes: "nothing",
        gate: "the bridge carries our mark",
        undone_by: "`priv.sync_resolver_routing`",
    },
    Method {
        name: "priv.create_dm_snapshot",
        does: "attaches two loop devices and joins them to the device `fc-rootfs-*`",
        takes: "a VM, two descriptors",
        gate: "both are regular files of the owner with one link, within the size limits; the VM \
               has no snapshot yet",
        undone_by: "`priv.remove_dm_snapshot`, `priv.cleanup_dm_snapshot`",
    },
    Method {
        name: "priv.remove_dm_snapshot",
        does: "removes the device; its loops detach by themselves",
        takes: "a VM",
        gate: "the device has the UUID of this VM and generation, and nobody uses it",
        undone_by: "`priv.create_dm_snapshot`",
    },
    Method {
        name: "priv.cleanup_dm_snapshot",
        does: "removes the device as soon as its last user is gone",
        takes: "a VM",
        gate: "the device has the UUID of this VM and generation",
        undone_by: "nothing: it is going away",
    },
    Method {
        name: "priv.open_snapshot",
        does: "hands out the device, opened exclusively, for an unprivileged program of the daemon to check or edit",
        takes: "a VM, whether to write",
        gate: "the device has the UUID of this VM and generation, and nobody uses it",
        undone_by: "closing the descriptor",
    },
    Method {
        name: "priv.launch_firecracker",
        does: "makes a fresh jail, shows the files in it, and starts the verified jailer and \
               Firecracker in a scope of their own",
        takes: "a VM, CPUs, memory, files by descriptor and role",
        gate: "each file has the type, owner, links and mode of its role; a jail that exists is \
               refused; programs and all parents belong to root and nobody else can write them",
        undone_by: "`priv.kill_process`, then `priv.cleanup_jailer_chroot`",
    },
    Method {
        name: "priv.ensure_socket_access",
        does: "gives the owner the VMM's two sockets, as descriptors",
        takes: "a VM",
        gate: "found beneath the jail without following a link; a socket, and the VM's uid's",
        undone_by: "closing the descriptors",
    },
    Method {
        name: "priv.signal_process",
        does: "sends the VMM a signal",
        takes: "a VM, a signal's name",
        gate: "TERM KILL INT HUP QUIT USR1 USR2 ABRT; by pidfd, after ledger, start time and cgroup agree",
        undone_by: "nothing",
    },
    Method {
        name: "priv.kill_process",
        does: "kills all that is in the VM's cgroup and waits until it is empty",
        takes: "a VM",
        gate: "the cgroup is exactly the one in the ledger",
        undone_by: "nothing",
    },
    Method {
        name: "priv.cleanup_jailer_chroot",
        does: "removes the VM's jail and frees its uid",
        takes: "a VM",
        gate: "no process of the VM runs; no link is followed and no mount is entered",
        undone_by: "nothing",
    },
    Method {
        name: "priv.reclaim",
        does: "ends and removes what is ours and belongs to no VM of the list",
        takes: "a list of VMs",
        gate: "only what the ledger or our marks prove ours",
        undone_by: "nothing",
    },
];

#[test]
fn the_table_has_exactly_the_verbs() {
    let text = include_str!("../../../banger-priv/src/request.rs");
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("#[serde(rename = \"priv."))
        .filter_map(|rest| rest.strip_suffix("\")]"))
        .collect();
    let table: Vec<&str> = METHODS
        .iter()
        .map(|method| method.name.trim_start_matches("priv."))
        .collect();
    assert_eq!(named, table);
}
