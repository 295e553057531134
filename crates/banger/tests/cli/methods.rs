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
    /// What it checks, and so refuses, each with the tests that show the refusal.
    pub(crate) gates: &'static [(&'static str, &'static [&'static str])],
    /// What undoes it.
    pub(crate) undone_by: &'static str,
}

/// All of them, in the order of `banger_priv::Request`.
pub(crate) const METHODS: [Method; 18] = [
    Method {
        name: "priv.status",
        does: "tells the helper's version and what it made for which VM",
        takes: "nothing",
        gates: &[(
            "the caller only",
            &[
                "net_s1_other_users_are_hung_up_on_and_the_owner_is_not",
                "net_s3_root_of_another_user_namespace_is_who_made_it",
                "s4_unmapped_uids_are_nobody_even_if_configured",
            ],
        )],
        undone_by: "changes nothing",
    },
    Method {
        name: "priv.ensure_bridge",
        does: "makes the bridge with its address, per-device forwarding and the nft tables `banger`",
        takes: "a bridge name, a subnet",
        gates: &[
            (
                "name `br-fc` or `br-fc-*`",
                &["ensure_bridge_refuses_foreign_names"],
            ),
            (
                "private subnet, prefix 8 to 30",
                &["ensure_bridge_refuses_foreign_subnets"],
            ),
            (
                "an existing link must carry our mark and address",
                &[
                    "net_ensure_bridge_refuses_links_that_are_not_ours",
                    "n16_a_bridge_of_ours_with_another_address_is_not_taken_for_this_one",
                ],
            ),
            (
                "no overlap with another link's address or route",
                &[
                    "net_r3_r4_ensure_bridge_refuses_what_overlaps_the_host",
                    "ensure_bridge_refuses_a_subnet_that_overlaps_lan_docker_or_vpn_and_names_it",
                ],
            ),
        ],
        undone_by: "`banger system uninstall`, or `priv.reclaim` when it was left half made",
    },
    Method {
        name: "priv.create_tap",
        does: "makes the VM's tap, owned by the VM's uid, an isolated port of the bridge, and the \
               rules that bind it to one MAC and one address",
        takes: "a VM, an address",
        gates: &[
            (
                "the address is a guest's in the bridge's subnet and no other VM's",
                &[
                    "net_create_tap_refuses_addresses_that_are_not_the_vms",
                    "r7_r19_addresses_and_uids_of_other_vms_are_refused",
                ],
            ),
            (
                "the VM has no tap yet",
                &[
                    "net_create_tap_refuses_addresses_that_are_not_the_vms",
                    "net_r29_the_same_tap_asked_for_at_once_is_made_once",
                    "net_r8_links_that_only_look_like_the_vms_tap_are_refused",
                ],
            ),
        ],
        undone_by: "`priv.remove_tap`",
    },
    Method {
        name: "priv.remove_tap",
        does: "removes the VM's tap and rules",
        takes: "a VM",
        gates: &[(
            "the link carries the mark of this VM and generation",
            &[
                "net_r8_links_that_only_look_like_the_vms_tap_are_refused",
                "net_r31_other_generations_are_refused",
                "remove_tap_knows_its_own_by_mark_name_and_kind_together",
            ],
        )],
        undone_by: "`priv.create_tap`",
    },
    Method {
        name: "priv.ensure_nat",
        does: "lets the VM's address out, masqueraded",
        takes: "a VM",
        gates: &[
            (
                "the VM has a tap, made by the helper",
                &[
                    "net_taps_and_nat_are_refused_without_bridge_or_tap",
                    "net_r8_links_that_only_look_like_the_vms_tap_are_refused",
                ],
            ),
            (
                "the address is the ledger's, not the caller's",
                &["r7_to_r19_no_verb_can_name_a_path_a_device_a_pid_a_uid_or_a_zone"],
            ),
        ],
        undone_by: "`priv.clear_nat`, `priv.remove_tap`",
    },
    Method {
        name: "priv.clear_nat",
        does: "ends that",
        takes: "a VM",
        gates: &[(
            "the VM is in the ledger",
            &[
                "net_taps_and_nat_are_refused_without_bridge_or_tap",
                "r18_r31_nothing_is_done_for_a_vm_that_nothing_was_made_for",
            ],
        )],
        undone_by: "`priv.ensure_nat`",
    },
    Method {
        name: "priv.sync_resolver_routing",
        does: "has systemd-resolved send queries for names in `vm`, and no others, to the daemon",
        takes: "a port",
        gates: &[
            (
                "port 1024 or above",
                &["net_taps_and_nat_are_refused_without_bridge_or_tap"],
            ),
            (
                "the zone and the bridge's address are the helper's own",
                &[
                    "r7_to_r19_no_verb_can_name_a_path_a_device_a_pid_a_uid_or_a_zone",
                    "r9_route_zone_refuses_what_is_more_than_one_label_before_any_byte_is_sent",
                ],
            ),
        ],
        undone_by: "`priv.clear_resolver_routing`",
    },
    Method {
        name: "priv.clear_resolver_routing",
        does: "reverts the bridge's settings in systemd-resolved",
        takes: "nothing",
        gates: &[(
            "the bridge carries our mark",
            &["net_a_bridge_that_was_swapped_is_not_used"],
        )],
        undone_by: "`priv.sync_resolver_routing`",
    },
    Method {
        name: "priv.create_dm_snapshot",
        does: "attaches two loop devices and joins them to the device `fc-rootfs-*`",
        takes: "a VM, two descriptors",
        gates: &[
            (
                "both are regular files of the owner with one link, within the size limits",
                &[
                    "create_dm_snapshot_refuses_files_that_are_no_images",
                    "lab_create_dm_snapshot_refuses_foreign_files",
                ],
            ),
            (
                "the VM has no snapshot yet",
                &[
                    "lab_create_dm_snapshot_refuses_foreign_files",
                    "lab_snapshot_boots_a_guest_and_is_handed_out_only_when_idle",
                ],
            ),
        ],
        undone_by: "`priv.remove_dm_snapshot`, `priv.cleanup_dm_snapshot`",
    },
    Method {
        name: "priv.remove_dm_snapshot",
        does: "removes the device; its loops detach by themselves",
        takes: "a VM",
        gates: &[
            (
                "the device has the UUID of this VM and generation",
                &[
                    "lab_cleanup_dm_snapshot_leaves_a_foreign_device_of_our_name",
                    "only_our_own_marks_name_a_vm",
                    "r18_r31_nothing_is_done_for_a_vm_that_nothing_was_made_for",
                ],
            ),
            (
                "nobody uses it",
                &["lab_snapshot_boots_a_guest_and_is_handed_out_only_when_idle"],
            ),
        ],
        undone_by: "`priv.create_dm_snapshot`",
    },
    Method {
        name: "priv.cleanup_dm_snapshot",
        does: "removes the device as soon as its last user is gone",
        takes: "a VM",
        gates: &[(
            "the device has the UUID of this VM and generation",
            &[
                "lab_cleanup_dm_snapshot_leaves_a_foreign_device_of_our_name",
                "r18_r31_nothing_is_done_for_a_vm_that_nothing_was_made_for",
            ],
        )],
        undone_by: "nothing: it is going away",
    },
    Method {
        name: "priv.open_snapshot",
        does: "hands out the device, opened exclusively, for an unprivileged program of the daemon to check or edit",
        takes: "a VM, whether to write",
        gates: &[
            (
                "the device has the UUID of this VM and generation",
                &[
                    "r18_r31_nothing_is_done_for_a_vm_that_nothing_was_made_for",
                    "lab_cleanup_dm_snapshot_leaves_a_foreign_device_of_our_name",
                ],
            ),
            (
                "nobody uses it",
                &["lab_snapshot_boots_a_guest_and_is_handed_out_only_when_idle"],
            ),
        ],
        undone_by: "closing the descriptor",
    },
    Method {
        name: "priv.launch_firecracker",
        does: "makes a fresh jail, shows the files in it, and starts the verified jailer and \
               Firecracker in a scope of their own",
        takes: "a VM, CPUs, memory, files by descriptor and role",
        gates: &[
            (
                "CPUs and memory within the limits",
                &["launch_refuses_a_machine_past_the_limits"],
            ),
            (
                "each file has the type, owner, links and mode of its role",
                &[
                    "f5_f9_f10_f18_files_unlike_their_roles_are_refused",
                    "f18_one_file_in_two_roles_too_many_disks_and_missing_ones_are_refused",
                    "lab_launch_refuses_files_unlike_their_roles",
                    "lab_launch_refuses_another_vms_disk",
                ],
            ),
            (
                "a jail that exists is refused",
                &[
                    "lab_launch_refuses_a_jail_that_is_there",
                    "create_child_adopts_nothing_that_exists",
                ],
            ),
            (
                "programs and all parents belong to root and nobody else can write them",
                &[
                    "lab_launch_refuses_programs_that_are_not_roots_alone",
                    "verified_program_refuses_what_others_could_have_changed",
                    "race_verified_program_gives_only_the_one_that_was_checked",
                    "lab_launch_runs_only_the_program_that_was_verified",
                ],
            ),
        ],
        undone_by: "`priv.kill_process`, then `priv.cleanup_jailer_chroot`",
    },
    Method {
        name: "priv.ensure_socket_access",
        does: "gives the owner the VMM's two sockets, as descriptors",
        takes: "a VM",
        gates: &[
            (
                "found beneath the jail without following a link",
                &[
                    "lab_ensure_socket_access_refuses_what_is_no_socket_of_the_vms",
                    "race_open_socket_gives_only_the_socket_within",
                ],
            ),
            (
                "a socket, and the VM's uid's",
                &[
                    "lab_ensure_socket_access_refuses_what_is_no_socket_of_the_vms",
                    "open_socket_refuses_links_other_files_and_other_owners",
                ],
            ),
        ],
        undone_by: "closing the descriptors",
    },
    Method {
        name: "priv.signal_process",
        does: "sends the VMM a signal",
        takes: "a VM, a signal's name",
        gates: &[
            (
                "TERM KILL INT HUP QUIT USR1 USR2 ABRT",
                &["signal_process_refuses_all_but_the_eight_names"],
            ),
            (
                "by pidfd, after ledger, start time and cgroup agree",
                &[
                    "r18_r31_nothing_is_done_for_a_vm_that_nothing_was_made_for",
                    "lab_signals_leave_a_foreign_firecracker_alone",
                    "a_process_that_differs_from_the_record_is_refused",
                    "pids_that_nobody_may_mean_are_refused",
                ],
            ),
        ],
        undone_by: "nothing",
    },
    Method {
        name: "priv.kill_process",
        does: "kills all that is in the VM's cgroup and waits until it is empty",
        takes: "a VM",
        gates: &[(
            "the cgroup is exactly the one in the ledger",
            &[
                "a_path_that_merely_contains_the_name_is_no_group_of_ours",
                "lab_signals_leave_a_foreign_firecracker_alone",
            ],
        )],
        undone_by: "nothing",
    },
    Method {
        name: "priv.cleanup_jailer_chroot",
        does: "removes the VM's jail and frees its uid",
        takes: "a VM",
        gates: &[
            (
                "no process of the VM runs",
                &["lab_vm_boots_confined_is_signalled_and_leaves_nothing"],
            ),
            (
                "no link is followed and no mount is entered",
                &[
                    "lab_cleanup_jailer_chroot_stays_in_the_jail",
                    "race_remove_tree_never_leaves_the_tree",
                    "remove_tree_leaves_an_embedded_mount_and_removes_the_rest",
                ],
            ),
        ],
        undone_by: "nothing",
    },
    Method {
        name: "priv.reclaim",
        does: "ends and removes what is ours and belongs to no VM of the list",
        takes: "a list of VMs",
        gates: &[(
            "only what the ledger or our marks prove ours",
            &[
                "lab_launch_refuses_a_jail_that_is_there",
                "lab_cleanup_dm_snapshot_leaves_a_foreign_device_of_our_name",
                "lab_signals_leave_a_foreign_firecracker_alone",
                "remove_tap_knows_its_own_by_mark_name_and_kind_together",
                "net_c11_a_lost_ledger_is_made_up_for_by_marks",
            ],
        )],
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
