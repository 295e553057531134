//! The verbs and what each takes.

use crate::{Signal, VmRef};
use banger_ids::{BridgeName, Subnet};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A verb. Its name on the wire is `priv.` and its own name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", deny_unknown_fields)]
pub enum Request {
    /// What the helper is and which VMs it knows.
    #[serde(rename = "priv.status")]
    Status {},
    /// Makes the bridge and its rules, or proves that they stand as asked.
    #[serde(rename = "priv.ensure_bridge")]
    EnsureBridge(EnsureBridge),
    /// Makes a VM's tap, with the rules that bind it to its addresses.
    #[serde(rename = "priv.create_tap")]
    CreateTap(CreateTap),
    /// Removes it. Gone already is no error.
    #[serde(rename = "priv.remove_tap")]
    RemoveTap(VmRef),
    /// Lets a VM with a tap reach outward, by masquerading.
    #[serde(rename = "priv.ensure_nat")]
    EnsureNat(VmRef),
    /// Ends that.
    #[serde(rename = "priv.clear_nat")]
    ClearNat(VmRef),
    /// Has systemd-resolved ask the daemon about names in `vm`.
    #[serde(rename = "priv.sync_resolver_routing")]
    SyncResolverRouting(ResolverRouting),
    /// Ends that.
    #[serde(rename = "priv.clear_resolver_routing")]
    ClearResolverRouting {},
    /// Makes a VM's device-mapper snapshot. Two descriptors: the base image, opened for reading;
    /// the copy-on-write file, opened for both.
    #[serde(rename = "priv.create_dm_snapshot")]
    CreateDmSnapshot(CreateSnapshot),
    /// Removes the device; its files are the daemon's. In use: refused.
    #[serde(rename = "priv.remove_dm_snapshot")]
    RemoveDmSnapshot(VmRef),
    /// Removes the device at once or as soon as its last user is gone.
    #[serde(rename = "priv.cleanup_dm_snapshot")]
    CleanupDmSnapshot(VmRef),
    /// Opens the device, for the daemon's unprivileged worker to check or edit the file system
    /// on it. Replies with one descriptor. In use: refused.
    #[serde(rename = "priv.open_snapshot")]
    OpenSnapshot(OpenSnapshot),
    /// Starts the VMM in its jail. One descriptor for each of `files`, in order. Replies with
    /// one: the VMM's pidfd.
    #[serde(rename = "priv.launch_firecracker")]
    LaunchFirecracker(Launch),
    /// Waits until Firecracker has made its sockets and makes them the owner's. Replies with
    /// three descriptors: the API's socket, the vsock's (both `O_PATH`), the VMM's pidfd.
    #[serde(rename = "priv.ensure_socket_access")]
    EnsureSocketAccess(VmRef),
    /// Sends the VMM a signal.
    #[serde(rename = "priv.signal_process")]
    SignalProcess(SendSignal),
    /// Kills everything in the VM's cgroup and waits until it is empty.
    #[serde(rename = "priv.kill_process")]
    KillProcess(VmRef),
    /// Removes the VM's jail and forgets its uid. Running still: refused.
    #[serde(rename = "priv.cleanup_jailer_chroot")]
    CleanupJailerChroot(VmRef),
    /// Ends and removes all that is ours and belongs to no VM of a list.
    #[serde(rename = "priv.reclaim")]
    Reclaim(Reclaim),
}

/// For [`Request::EnsureBridge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsureBridge {
    /// The bridge.
    pub bridge: BridgeName,
    /// Its address and prefix length.
    pub subnet: Subnet,
}

/// For [`Request::CreateTap`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTap {
    /// The VM.
    pub vm: VmRef,
    /// The guest's address: in the bridge's subnet, and no other VM's.
    pub address: Ipv4Addr,
}

/// For [`Request::SyncResolverRouting`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolverRouting {
    /// The port of the bridge's address where the daemon answers, at least 1024.
    pub port: u16,
}

/// For [`Request::CreateDmSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// The VM.
    pub vm: VmRef,
    /// Whether the copy-on-write file keeps what it has from an earlier start.
    pub persistent: bool,
}

/// For [`Request::OpenSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSnapshot {
    /// The VM.
    pub vm: VmRef,
    /// Whether it is opened for writing too.
    pub write: bool,
}

/// For [`Request::LaunchFirecracker`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The VM.
    pub vm: VmRef,
    /// The guest's virtual CPUs, from which the limits of its cgroup follow.
    pub cpus: u8,
    /// The guest's memory in MiB, likewise.
    pub memory_mib: u32,
    /// What the descriptors are, in their order.
    pub files: Vec<FileRole>,
}

/// What a descriptor handed to [`Request::LaunchFirecracker`] is.
///
/// All are the owner's own, with one name, without set-id bits, and opened in just the mode that
/// the role needs. What many VMs read must be readable by others (0444, in directories that are
/// not); what is one VM's is given to that VM's group, so it must be 0640, or 0660 where the VM
/// writes, and closed to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FileRole {
    /// [`crate::jail::KERNEL`]: a regular file that many VMs read, shown read-only.
    Kernel,
    /// [`crate::jail::INITRD`]: a regular file of this VM's, shown read-only.
    Initrd,
    /// [`crate::jail::MACHINE`]: the same.
    Machine,
    /// [`crate::jail::disk`] with this number: a regular file that many VMs read, shown read-only.
    ReadOnlyDisk(u8),
    /// The same, which this VM alone reads and writes.
    Disk(u8),
    /// The VMM's standard output and error: the guest's console. A FIFO.
    Console,
    /// [`crate::jail::LOG`]: a FIFO.
    Log,
    /// [`crate::jail::host_port`] of the agent's port for readiness: a listening socket's file,
    /// opened with `O_PATH`.
    Ready,
}

/// For [`Request::SignalProcess`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendSignal {
    /// The VM.
    pub vm: VmRef,
    /// The signal.
    pub signal: Signal,
}

/// For [`Request::Reclaim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reclaim {
    /// The VMs that stay.
    pub keep: Vec<VmRef>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signal;
    use banger_ids::VmId;

    #[test]
    fn a_request_is_written_and_read_as_one_object() {
        let vm = VmRef {
            id: VmId::from_bits(7),
            generation: 1,
        };
        let all = [
            (
                Request::Status {},
                r#"{"method":"priv.status","params":{}}"#,
            ),
            (
                Request::RemoveTap(vm.clone()),
                r#"{"method":"priv.remove_tap","params":{"id":"vm-00000007","generation":1}}"#,
            ),
            (
                Request::SignalProcess(SendSignal {
                    vm: vm.clone(),
                    signal: Signal::Term,
                }),
                r#"{"method":"priv.signal_process","params":{"vm":{"id":"vm-00000007","generation":1},"signal":"TERM"}}"#,
            ),
            (
                Request::SyncResolverRouting(ResolverRouting { port: 8053 }),
                r#"{"method":"priv.sync_resolver_routing","params":{"port":8053}}"#,
            ),
            (
                Request::Reclaim(Reclaim { keep: vec![vm] }),
                r#"{"method":"priv.reclaim","params":{"keep":[{"id":"vm-00000007","generation":1}]}}"#,
            ),
        ];
        for (request, text) in all {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
    }

    #[test]
    fn a_request_refuses_what_is_not_exactly_one() {
        for bad in [
            "",
            "null",
            "[]",
            r#"[{"method":"priv.status","params":{}}]"#,
            r#"{"method":"priv.status"}"#,
            r#"{"method":"priv.status","params":{"x":1}}"#,
            r#"{"method":"priv.status","params":{},"id":1}"#,
            r#"{"method":"priv.status","method":"priv.status","params":{}}"#,
            r#"{"Method":"priv.status","params":{}}"#,
            r#"{"method":"priv.Status","params":{}}"#,
            r#"{"method":"status","params":{}}"#,
            r#"{"method":"priv.exec","params":{}}"#,
            r#"{"method":"priv.sync_resolver_routing","params":{"port":1e3}}"#,
            r#"{"method":"priv.sync_resolver_routing","params":{"port":8053.0}}"#,
            r#"{"method":"priv.sync_resolver_routing","params":{"port":-0}}"#,
            r#"{"method":"priv.sync_resolver_routing","params":{"port":65536}}"#,
            r#"{"method":"priv.sync_resolver_routing","params":{"port":"8053"}}"#,
            r#"{"method":"priv.sync_resolver_routing","params":{"port":1,"port":2}}"#,
            r#"{"method":"priv.create_tap","params":{"vm":{"id":"vm-00000007","generation":1},"address":"010.0.0.2"}}"#,
            r#"{"method":"priv.create_tap","params":{"vm":{"id":"vm-00000007","generation":1},"address":1}}"#,
            r#"{"method":"priv.create_tap","params":{"vm":{"id":"vm-00000007","generation":1},"address":"10.0.0.2","tap":"eth0"}}"#,
            r#"{"method":"priv.ensure_bridge","params":{"bridge":"eth0","subnet":"10.0.0.1/24"}}"#,
            r#"{"method":"priv.signal_process","params":{"vm":{"id":"vm-00000007","generation":1},"signal":9}}"#,
            "\u{feff}{\"method\":\"priv.status\",\"params\":{}}",
            "{\"method\":\"priv.\\ud800status\",\"params\":{}}",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(serde_json::from_str::<Request>(&deep).is_err());
        assert!(serde_json::from_slice::<Request>(b"{\"method\":\"priv.status\xff\"}").is_err());
    }
}
