//! The control group of a VM: a transient scope from systemd or, where there is no systemd, one of
//! the same path made by hand; on hosts without a writable version 2 tree, none.
//!
//! It is known by its exact path, which only root can make: a path that merely contains the name
//! proves nothing.

use std::path::Path;
use std::time::Instant;

use banger_bus::{Bus, BusError, DeviceKind, DeviceRule, ScopeSpec};
use banger_ids::{VmId, VmRef};
use banger_priv::{Launch, Refusal};
use banger_sys::cgroup::{Cgroup, CgroupError};
use banger_sys::dirs::{Dir, PathError};
use rustix::fs::{Dev, major, minor};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::policy::{
    BUS, BUS_LIMIT, KILL_LIMIT, MAX_ENTRY, MAX_SEARCHED, MEMORY_OVERHEAD, MEMORY_OVERHEAD_PART,
    TASKS_OVERHEAD,
};
use crate::refusal::failed;

const TREE: &str = "/sys/fs/cgroup";
const SLICE: &str = "banger.slice";
/// Opened whole: the service can write here alone, so it is a mount of its own.
const SLICE_DIRECTORY: &str = "/sys/fs/cgroup/banger.slice";
/// A CPU's time per second, in microseconds.
const ONE_CPU: u64 = 1_000_000;
/// The misc driver's major number, and its devices that a VMM needs.
const MISC: u32 = 10;
const KVM: u32 = 232;
const TUN: u32 = 200;

/// What a VM may use.
struct Limits {
    memory: u64,
    tasks: u64,
    cpu: u64,
}

fn limits(launch: &Launch) -> Limits {
    let guest = u64::from(launch.memory_mib).saturating_mul(1 << 20);
    let part = guest.checked_div(MEMORY_OVERHEAD_PART).unwrap_or_default();
    let cpus = u64::from(launch.cpus);
    Limits {
        memory: guest.saturating_add(part).saturating_add(MEMORY_OVERHEAD),
        tasks: cpus.saturating_add(TASKS_OVERHEAD),
        // One more than the guest has: for its devices.
        cpu: cpus.saturating_add(1).saturating_mul(ONE_CPU),
    }
}

/// The path of a VM's group.
pub(super) fn path_of(vm: &VmRef) -> String {
    format!("/{SLICE}/{}", vm.scope())
}

/// Puts a child into a new group of the VM's. Gives the path where it must be, which the kernel
/// has to confirm; `None` where the host has no such tree.
pub(super) fn enter(
    systemd: bool,
    launch: &Launch,
    pid: Pid,
    disk: Option<Dev>,
) -> Result<Option<String>, Refusal> {
    let what = format!("make the control group of {}", launch.vm);
    if systemd {
        start_scope(launch, pid, disk).map_err(|error| failed(&what, &error))?;
    } else if let Err(error) = make_by_hand(launch, pid) {
        if is_missing(&error) {
            return Ok(None);
        }
        return Err(failed(&what, &error));
    }
    Ok(Some(path_of(&launch.vm)))
}

fn start_scope(launch: &Launch, pid: Pid, disk: Option<Dev>) -> Result<(), BusError> {
    let (name, limits) = (launch.vm.scope(), limits(launch));
    let mut devices = vec![misc(KVM), misc(TUN)];
    devices.extend(userfaultfd().map(misc));
    devices.extend(disk.map(|disk| DeviceRule {
        kind: DeviceKind::Block,
        major: major(disk),
        minor: minor(disk),
        may_mknod: false,
    }));
    let spec = ScopeSpec {
        name: &name,
        description: &format!("banger {}", launch.vm),
        slice: SLICE,
        pid: pid.as_raw_nonzero().get().unsigned_abs(),
        memory_max: limits.memory,
        tasks_max: limits.tasks,
        cpu_quota_us: limits.cpu,
        devices: &devices,
    };
    let mut bus = Bus::connect(Path::new(BUS), BUS_LIMIT)?;
    match bus.start_scope(&spec) {
        // An earlier start's, which outlives its last process by a moment, or for ever.
        Err(BusError::UnitExists(_)) if stop_empty(&mut bus, &launch.vm)? => {
            bus.wait_unit_gone(&name)?;
            bus.start_scope(&spec)
        }
        started => started,
    }
}

/// Stops the VM's scope if it is in our slice and nothing runs in it; whether that is so.
fn stop_empty(bus: &mut Bus, vm: &VmRef) -> Result<bool, BusError> {
    let (name, path) = (vm.scope(), path_of(vm));
    let is_ours = match bus.unit_cgroup(&name)? {
        Some(group) if !group.is_empty() => {
            group == path && is_populated(&path).is_ok_and(|populated| !populated)
        }
        _ => true,
    };
    if is_ours {
        bus.stop_unit(&name)?;
    }
    Ok(is_ours)
}

fn misc(minor: u32) -> DeviceRule {
    DeviceRule {
        kind: DeviceKind::Char,
        major: MISC,
        minor,
        may_mknod: true,
    }
}

/// The minor number of `/dev/userfaultfd`, which the jailer makes in the jail if the kernel has it.
fn userfaultfd() -> Option<u32> {
    let text = Dir::open("/proc")
        .and_then(|proc| proc.read("misc", MAX_ENTRY))
        .ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().filter_map(|line| line.trim().split_once(' '));
    let (number, _) = lines.find(|(_, name)| *name == "userfaultfd")?;
    number.parse().ok()
}

/// Limits that the host's tree does not have are left out: without systemd less is promised.
fn make_by_hand(launch: &Launch, pid: Pid) -> Result<(), CgroupError> {
    let root = Cgroup::open(TREE, "/")?;
    let slice = match root.create(SLICE) {
        Err(CgroupError::Path(error)) if error.errno() == Some(Errno::EXIST) => {
            Cgroup::open(SLICE_DIRECTORY, "/")?
        }
        slice => slice?,
    };
    let limits = limits(launch);
    let group = slice.create(&launch.vm.scope())?;
    let wanted = [
        ("+memory", "memory.max", limits.memory.to_string()),
        ("+memory", "memory.swap.max", "0".to_owned()),
        ("+pids", "pids.max", limits.tasks.to_string()),
        ("+cpu", "cpu.max", format!("{} {ONE_CPU}", limits.cpu)),
    ];
    for (controller, file, value) in wanted {
        let enabled = [&root, &slice].map(|group| group.set("cgroup.subtree_control", controller));
        if enabled.iter().all(Result::is_ok) {
            group.set(file, &value)?;
        }
    }
    group.add(pid)
}

/// Whether the host just does not have it.
fn is_missing(error: &CgroupError) -> bool {
    let errno = match error {
        CgroupError::NotUnified(_) => return true,
        CgroupError::Path(error) => error.errno(),
        CgroupError::Kernel { errno, .. } => Some(*errno),
    };
    matches!(
        errno,
        Some(Errno::NOENT | Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::NODEV)
    )
}

/// Whether the group is gone, perhaps between two looks: systemd removes an empty one by itself.
fn is_gone(error: &CgroupError) -> bool {
    let errno = match error {
        CgroupError::NotUnified(_) => None,
        CgroupError::Path(error) => error.errno(),
        CgroupError::Kernel { errno, .. } => Some(*errno),
    };
    matches!(errno, Some(Errno::NOENT | Errno::NODEV))
}

/// The VM that a group's name is of.
fn vm_of(name: &str) -> Option<VmId> {
    let digits = name.strip_prefix("banger-vm-")?.strip_suffix(".scope")?;
    VmId::parse(&format!("vm-{digits}")).ok()
}

/// The name of the group at `path`, if it is one of ours.
fn name_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix('/')?.strip_prefix(SLICE)?;
    let name = name.strip_prefix('/')?;
    vm_of(name).map(|_| name)
}

/// Opens the group at `path`, as the ledger has it.
fn open(path: &str) -> Result<Cgroup, CgroupError> {
    let name = name_of(path).ok_or_else(|| CgroupError::NotUnified(path.to_owned()))?;
    Cgroup::open(SLICE_DIRECTORY, &format!("/{name}"))
}

/// Whether anything runs in the group at `path`.
pub(super) fn is_populated(path: &str) -> Result<bool, CgroupError> {
    match open(path).and_then(|group| group.is_populated()) {
        Err(error) if is_gone(&error) => Ok(false),
        populated => populated,
    }
}

/// Kills all that runs in the group at `path` and waits until it is empty or gone; whether it is.
/// Where the tree cannot be written it only waits.
pub(super) fn kill(path: &str) -> Result<bool, CgroupError> {
    let killed = open(path).and_then(|group| {
        match group.kill() {
            Err(error) if !is_missing(&error) => return Err(error),
            _ => {}
        }
        let now = Instant::now();
        group.wait_empty(now.checked_add(KILL_LIMIT).unwrap_or(now))
    });
    match killed {
        Err(error) if is_gone(&error) => Ok(true),
        killed => killed,
    }
}

/// Removes an empty group. systemd removes one that became empty by itself, but not one whose first
/// process ended just while it was moved there.
pub(super) fn remove(systemd: bool, vm: &VmRef) -> Result<(), Refusal> {
    if systemd {
        let stopped =
            Bus::connect(Path::new(BUS), BUS_LIMIT).and_then(|mut bus| stop_empty(&mut bus, vm));
        return stopped
            .map(drop)
            .map_err(|error| failed(format!("remove the control group of {vm}"), &error));
    }
    let removed = Cgroup::open(SLICE_DIRECTORY, "/").and_then(|slice| slice.remove(&vm.scope()));
    match removed {
        Err(error) if !is_missing(&error) => {
            Err(failed(format!("remove the control group of {vm}"), &error))
        }
        _ => Ok(()),
    }
}

/// The VMs that groups are named for.
pub(super) fn list() -> Result<Vec<VmId>, PathError> {
    let slice = match Dir::open(SLICE_DIRECTORY) {
        Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(Vec::new()),
        slice => slice?,
    };
    let names = slice.names(MAX_SEARCHED)?;
    Ok(names.iter().filter_map(|name| vm_of(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_merely_contains_the_name_is_no_group_of_ours() {
        let ours = "/banger.slice/banger-vm-00000001.scope";
        assert_eq!(name_of(ours), Some("banger-vm-00000001.scope"));
        for foreign in [
            "",
            "/",
            "/banger.slice",
            "/banger.slice/",
            "/banger.slice/../system.slice",
            "/banger.slice/banger-vm-00000001.scope/x",
            "/banger.slice/banger-vm-0000001.scope",
            "/banger.slicex/banger-vm-00000001.scope",
            "/user.slice/banger.slice/banger-vm-00000001.scope",
            "banger.slice/banger-vm-00000001.scope",
        ] {
            assert_eq!(name_of(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn limits_follow_from_the_guest() {
        let launch = Launch {
            vm: VmRef {
                id: VmId::from_bits(1),
                generation: 1,
            },
            cpus: 2,
            memory_mib: 1000,
            files: Vec::new(),
        };
        let limits = limits(&launch);
        assert_eq!(limits.memory, (1000 + 50 + 128) << 20);
        assert_eq!((limits.tasks, limits.cpu), (18, 3_000_000));
    }
}
