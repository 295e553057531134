//! A VM's Firecracker: started in its jail, proved before it is touched, and ended with all that
//! is in its control group.
//!
//! A process is the one on record if its start time and its control group are; no number that
//! anybody sent is ever used. VMMs outlive the helper: only how one ended is lost with it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use banger_ids::VmRef;
use banger_priv::{Launch, Refusal, RefusalKind, Reply, SendSignal, Signal, Vmm};
use banger_sys::dirs::{Dir, verified_program};
use banger_sys::pidfd::{self, Ended, Facts, ProcessError, Proven};
use rustix::fs::Dev;
use rustix::process::{Pid, Signal as Number};

use super::files::{self, Given};
use super::stage::{Plan, Shown};
use super::{jail, scope, snapshot, start};
use crate::entry::{JailEntry, ProcessEntry, VmEntry};
use crate::helper::{Helper, Outcome, done};
use crate::ops::reclaim::Swept;
use crate::policy::{KILL_LIMIT, MAX_CPUS, MEMORY_MIB, MIN_FILE_LIMIT};
use crate::refusal::{failed, refuse};
use crate::undo::{Undo, attempt};

pub(crate) fn launch_firecracker(helper: &Helper, launch: Launch, fds: Vec<OwnedFd>) -> Outcome {
    let vm = &launch.vm;
    if !(1..=MAX_CPUS).contains(&launch.cpus) || !MEMORY_MIB.contains(&launch.memory_mib) {
        let message = format!(
            "launch {vm}: {} CPUs, {} MiB",
            launch.cpus, launch.memory_mib
        );
        return Err(refuse(RefusalKind::Limit, message));
    }
    let (entry, others) = {
        let ledger = helper.ledger();
        let others = ledger
            .entries()
            .into_iter()
            .filter(|entry| entry.vm.id != vm.id);
        (
            ledger.entry_or_new(vm)?,
            others.map(|entry| entry.uid).collect(),
        )
    };
    if entry.jail.is_some() || entry.process.is_some() {
        let message = format!("launch {vm}: it was launched before; its jail is there");
        return Err(refuse(RefusalKind::Exists, message));
    }
    let files = files::prove(helper.config.owner, &others, &launch.files, fds)?;
    let program = |name: &str| {
        let path = helper.config.roots.programs.join(name);
        verified_program(&path.to_string_lossy())
            .map_err(|error| failed(format!("launch {vm}"), &error))
    };
    let programs = [program("jailer")?, program("firecracker")?];
    let disk = entry
        .snapshot
        .as_ref()
        .map(|_| snapshot::idle_device(vm))
        .transpose()?;
    attempt(|undo| launch_checked(helper, &launch, entry, &files, &programs, disk, undo))
}

/// All was checked; each step pushes its inverse.
fn launch_checked<'a>(
    helper: &'a Helper,
    launch: &'a Launch,
    mut entry: VmEntry,
    files: &'a [Given],
    programs: &[OwnedFd; 2],
    disk: Option<Dev>,
    undo: &mut Undo<'a>,
) -> Outcome {
    let (vm, uid) = (&launch.vm, entry.uid);
    entry.jail = Some(JailEntry {});
    let plan = plan(helper, &entry, files);
    helper.ledger().write(entry)?;
    undo.push("forget the jail", move || {
        let forget = |entry: &mut VmEntry| (entry.jail, entry.process) = (None, None);
        helper.ledger().update(vm, forget).map(drop)
    });
    let dir = jail::make(helper, vm, uid, files, disk)?;
    undo.push("remove the jail", move || jail::remove(helper, vm));
    for file in files {
        let what = format!("give {:?} to {vm}", file.role);
        file.give(uid).map_err(|error| failed(&what, &error))?;
        undo.push("take a file back", move || {
            file.take_back().map_err(|error| failed(&what, &error))
        });
    }
    let systemd = helper.config.systemd;
    undo.push("remove the control group", move || {
        scope::remove(systemd, vm)
    });
    let stage = start::Stage::spawn(programs, &dir, files)?;
    let pidfd = stage.pidfd()?;
    undo.push("end the stage", move || end_child(&pidfd));
    let cgroup = scope::enter(systemd, launch, stage.pid(), disk)?;
    let process = record(stage.pid(), cgroup)?;
    helper
        .ledger()
        .update(vm, |entry| entry.process = Some(process))?;
    let (pid, pidfd) = stage.go(&plan)?;
    let watched = pidfd
        .try_clone()
        .map_err(|error| failed("hold the VMM", &error))?;
    helper.children.watch(vm, watched)?;
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    Ok((Reply::Vmm(Vmm { pid }), vec![pidfd]))
}

fn plan(helper: &Helper, entry: &VmEntry, files: &[Given]) -> Plan {
    let size = |file: &Given| u64::try_from(file.stat.st_size).unwrap_or_default();
    let written = files.iter().filter(|file| !file.is_read_only()).map(size);
    let disk = entry.snapshot.as_ref().map(|snapshot| snapshot.bytes);
    let shown = files.iter().filter_map(|file| {
        Some(Shown {
            target: jail::target(&entry.vm, &file.place()?),
            read_only: file.is_read_only(),
        })
    });
    Plan {
        id: entry.vm.jail().to_owned(),
        uid: entry.uid,
        file_limit: written.chain(disk).fold(MIN_FILE_LIMIT, u64::max),
        roots: helper.config.roots.files.clone(),
        files: shown.collect(),
    }
}

/// What tells a child, which was not waited for, from every other process.
fn record(pid: Pid, cgroup: Option<String>) -> Result<ProcessEntry, Refusal> {
    let facts = Facts::of(pid).map_err(|error| failed("look at the VMM", &error))?;
    if cgroup.is_some() && facts.cgroup != cgroup {
        let message = format!(
            "look at the VMM: it is in {:?}, not {cgroup:?}",
            facts.cgroup
        );
        return Err(refuse(RefusalKind::Failed, message));
    }
    Ok(ProcessEntry {
        pid: pid.as_raw_nonzero().get(),
        started: facts.started,
        cgroup: facts.cgroup,
        has_own_cgroup: cgroup.is_some(),
    })
}

/// Kills a child of ours and waits for it.
fn end_child(pidfd: &OwnedFd) -> Result<(), Refusal> {
    let deadline = Instant::now().checked_add(KILL_LIMIT);
    // It may have ended by itself.
    let killed = rustix::process::pidfd_send_signal(pidfd, Number::KILL);
    match pidfd::wait_ended(pidfd, deadline) {
        Ok(true) => match pidfd::reap(pidfd) {
            Ok(_) | Err(ProcessError::Gone) => Ok(()),
            Err(error) => Err(failed("end a child", &error)),
        },
        Ok(false) => Err(refuse(
            RefusalKind::TimedOut,
            format!("end a child: it does not end ({killed:?})"),
        )),
        Err(error) => Err(failed("end a child", &error)),
    }
}

/// The VMM, proved to be the one on record and alive; `None` if it has ended.
///
/// One that somebody moved to another control group is still it if it runs as the VM's uid, which
/// nobody else has.
fn prove(entry: &VmEntry) -> Result<Option<Proven>, Refusal> {
    let Some(process) = &entry.process else {
        return Ok(None);
    };
    let mut facts = Facts {
        started: process.started,
        cgroup: process.cgroup.clone(),
    };
    let mut proven = Proven::open(process.pid, &facts);
    if let (Err(ProcessError::Foreign { .. }), Some(pid)) = (&proven, Pid::from_raw(process.pid))
        && let Ok(found) = Facts::of(pid)
        && found.started == facts.started
        && Dir::open(&format!("/proc/{}", process.pid))
            .is_ok_and(|dir| dir.verify(entry.uid, 0).is_ok())
    {
        facts.cgroup = found.cgroup;
        proven = Proven::open(process.pid, &facts);
    }
    match proven {
        Ok(proven) => Ok(Some(proven)),
        Err(ProcessError::Gone | ProcessError::Foreign { .. }) => Ok(None),
        Err(error) => Err(failed(format!("find the VMM of {}", entry.vm), &error)),
    }
}

/// The VMM; that there is none is a refusal.
pub(super) fn running(entry: &VmEntry) -> Result<Proven, Refusal> {
    prove(entry)?
        .ok_or_else(|| refuse(RefusalKind::Unknown, format!("no VMM of {} runs", entry.vm)))
}

/// Whether the VMM runs, by the kernel's word; in doubt it does.
pub(crate) fn is_running(_: &Helper, entry: &VmEntry) -> bool {
    prove(entry).map_or(true, |found| found.is_some())
}

fn own_cgroup(entry: &VmEntry) -> Option<&str> {
    let process = entry.process.as_ref()?;
    process.cgroup.as_deref().filter(|_| process.has_own_cgroup)
}

/// Refuses while anything of the VM runs.
pub(super) fn check_ended(entry: &VmEntry) -> Result<(), Refusal> {
    let populated = own_cgroup(entry).map_or(Ok(false), scope::is_populated);
    let populated = populated
        .map_err(|error| failed(format!("look at the control group of {}", entry.vm), &error))?;
    if populated || prove(entry)?.is_some() {
        let message = format!("clean up after {}: it runs", entry.vm);
        return Err(refuse(RefusalKind::Busy, message));
    }
    Ok(())
}

pub(crate) fn signal_process(helper: &Helper, asked: SendSignal) -> Outcome {
    let entry = helper.ledger().entry(&asked.vm)?;
    let number = match asked.signal {
        Signal::Term => Number::TERM,
        Signal::Kill => Number::KILL,
        Signal::Int => Number::INT,
        Signal::Hup => Number::HUP,
        Signal::Quit => Number::QUIT,
        Signal::Usr1 => Number::USR1,
        Signal::Usr2 => Number::USR2,
        Signal::Abrt => Number::ABORT,
    };
    let process = running(&entry)?;
    process
        .signal(number)
        .map_err(|error| failed(format!("signal the VMM of {}", asked.vm), &error))?;
    done(Reply::Nothing)
}

/// Dead already is no error; afterwards the ledger has no process of the VM.
pub(crate) fn kill_process(helper: &Helper, vm: VmRef) -> Outcome {
    let entry = helper.ledger().entry(&vm)?;
    let what = format!("kill the VMM of {vm}");
    let stays = || refuse(RefusalKind::TimedOut, format!("{what}: it does not end"));
    // First by what was proved: where the tree of groups cannot be written, this is all.
    if let Some(process) = prove(&entry)? {
        match process.signal(Number::KILL) {
            Ok(()) | Err(ProcessError::Gone) => {}
            Err(error) => return Err(failed(&what, &error)),
        }
        let now = Instant::now();
        let ended = process.wait(now.checked_add(KILL_LIMIT).unwrap_or(now));
        if !ended.map_err(|error| failed(&what, &error))? {
            return Err(stays());
        }
    }
    let is_empty = own_cgroup(&entry).map_or(Ok(true), scope::kill);
    if !is_empty.map_err(|error| failed(&what, &error))? {
        return Err(stays());
    }
    // systemd's own goes by itself: the process on record was in it.
    if !helper.config.systemd {
        scope::remove(false, &vm)?;
    }
    helper.ledger().update(&vm, |entry| entry.process = None)?;
    done(Reply::Nothing)
}

/// Kills what runs in scopes with our names of VMs that are neither in the ledger nor in `keep`.
pub(crate) fn reclaim(helper: &Helper, keep: &[VmRef]) -> Swept {
    let found = scope::list().map_err(|error| failed("list control groups", &error));
    jail::sweep(helper, keep, "control group", found, |id| {
        // The name is the same for each start.
        let vm = VmRef {
            id: id.clone(),
            generation: 0,
        };
        let what = format!("end what runs in the control group of {id}");
        match scope::kill(&scope::path_of(&vm)) {
            Ok(true) => scope::remove(helper.config.systemd, &vm),
            Ok(false) => Err(refuse(RefusalKind::TimedOut, what)),
            Err(error) => Err(failed(what, &error)),
        }
    })
}

/// The VMMs that this process started, each with a thread that waits for its end.
#[derive(Debug, Default)]
pub(crate) struct Children(Mutex<BTreeMap<VmRef, JoinHandle<Option<u8>>>>);

impl Children {
    fn watch(&self, vm: &VmRef, pidfd: OwnedFd) -> Result<(), Refusal> {
        let wait = move || match pidfd::reap(&pidfd) {
            Ok(Ended::Exited(code)) => u8::try_from(code).ok(),
            Ok(Ended::Killed(signal)) => u8::try_from(signal).ok()?.checked_add(128),
            Err(_) => None,
        };
        let thread = std::thread::Builder::new().name(format!("wait {vm}"));
        let thread = thread.stack_size(64 * 1024).spawn(wait);
        let thread = thread.map_err(|error| failed(format!("wait for {vm}"), &error))?;
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        children.insert(vm.clone(), thread);
        Ok(())
    }

    /// How the VMM, which must have ended, did so: its exit code, or 128 and a signal's number.
    pub(super) fn take(&self, vm: &VmRef) -> Option<u8> {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = children.remove(vm)?;
        drop(children);
        thread.join().ok().flatten()
    }
}
