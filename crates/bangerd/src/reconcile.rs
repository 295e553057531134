//! At start: what runs, then what was stored, then what lies around.
//!
//! The kernel is asked first: a recorded VMM is ours only if the engine proves by pidfd,
//! start time and boot id that it is the same process. Then every record is brought into
//! line with that. A directory of a VM that has no row means that rows were lost: the row comes
//! before the directory and goes after it. Such a VM is taken up again by the copy of its
//! record; without one it is left and told, until somebody asks for it to be removed ([`tidy`]).
//! What the helper made is asked of the helper: the VMMs that it says run are taken over, all
//! else that it has is reclaimed.
//!
//! A VMM that is ours and does not answer is taken over as it is and shown as hung: it may come
//! back, and a restart of the daemon ends no VM that a person wants to keep.

mod strays;

use crate::daemon::Daemon;
use crate::network;
use crate::problem::Refusal;
use crate::ssh;
use crate::store::StoreError;
use crate::store::copies::{self, Orphan};
use crate::vm::driver::Driver;
use crate::vm::place::{self, VmPlace};
use crate::vm::record::VmRecord;
use banger_api::{EventKind, VmState};
use banger_engine::{EngineError, EngineKind, Machine};
use banger_names::{ByteSize, VmId, VmName, VmRef};
use futures_util::stream::{self, StreamExt};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a VMM may take to answer when it is taken over.
const ADOPT_LIMIT: Duration = Duration::from_secs(30);

/// How many VMs are brought into line at once.
const AT_ONCE: usize = 32;

/// How long a VMM may take to be gone after KILL.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// The word for a VM whose VMM may run still, and cannot be held.
const LOST: &str = "lost";

/// What became of a recorded VMM.
enum Fate {
    /// None was recorded.
    None,
    /// It runs and is ours.
    Runs(Arc<dyn Machine>),
    /// It is gone, or another process has its number.
    Gone(String),
    /// It may run still, and can be neither held nor shown to have ended.
    Lost(String),
}

/// Brings records, processes and directories into line.
pub(crate) async fn reconcile(daemon: &Arc<Daemon>) -> Result<(), Refusal> {
    let mut records = daemon.database().all().await?;
    records.extend(recover(daemon, &records).await?);
    let log_cap = match daemon.config().await {
        Ok(config) => config.daemon.log_cap,
        Err(error) => {
            tracing::warn!(%error, "use the default configuration for what runs");
            banger_api::DaemonConfig::default().log_cap
        }
    };
    if records
        .iter()
        .any(|record| record.is_helped && record.process.is_some())
        && let Some(helper) = daemon.helper()
    {
        // Without its word nobody can tell whether those run, and they must not be given up.
        helper.status().await?;
    }
    let mut known: HashSet<VmId> = daemon.orphans().into_iter().map(|vm| vm.id).collect();
    let mut kept = Vec::new();
    let mut settled = Vec::new();
    known.extend(records.iter().map(|record| record.id.clone()));
    // Side by side: one VMM that does not answer must not keep the others waiting.
    let settling = records
        .into_iter()
        .map(|record| settle(daemon, record, log_cap));
    let mut settling = stream::iter(settling).buffered(AT_ONCE);
    while let Some(vm) = settling.next().await {
        let Some((record, machine)) = vm else {
            continue;
        };
        let is_lost = record.exit.as_ref().is_some_and(|exit| exit.reason == LOST);
        if record.is_helped && (machine.is_some() || is_lost) {
            kept.extend(record.last_start());
        }
        settled.push((record, machine));
    }
    let may_change = daemon.condition().may_change();
    let is_reclaimed = may_change && reclaim(daemon, kept.clone()).await;
    for (mut record, machine) in settled {
        let is_kept = record
            .last_start()
            .is_some_and(|start| kept.contains(&start));
        if machine.is_none() && is_reclaimed && !is_kept {
            record.is_helped = false;
        }
        hand_over(daemon, record, machine).await;
    }
    if !may_change {
        return Ok(());
    }
    let dirs = daemon.dirs().clone();
    let swept = tokio::task::spawn_blocking(move || {
        sweep(&place::run_root(&dirs), &known);
        if let Err(error) = ssh::remove_unfinished(&dirs) {
            tracing::error!(%error, "remove a file of known hosts that was not finished");
        }
    });
    swept
        .await
        .map_err(|error| Refusal::internal("sweep what nobody knows", &error))
}

/// Brings one record into line. Its failures are logged: one VM must not keep the daemon
/// from starting.
async fn settle(
    daemon: &Arc<Daemon>,
    mut record: VmRecord,
    log_cap: ByteSize,
) -> Option<(VmRecord, Option<Arc<dyn Machine>>)> {
    let place = VmPlace::of(daemon.dirs(), &record.id);
    let (before, process) = (record.state, record.process.clone());
    let goes = record.plan.ephemeral || record.state == VmState::Removing;
    let fate = fate_of(daemon, &record, &place, log_cap).await;
    if !daemon.condition().may_change() {
        return Some(shown(record, fate));
    }
    let mut is_lost = false;
    let machine = match fate {
        Fate::Runs(machine) if goes => {
            match tokio::time::timeout(KILL_LIMIT, machine.kill()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(vm = %record.id, %error, "kill a leftover"),
                Err(_) => tracing::error!(vm = %record.id, "kill a leftover: it does not end"),
            }
            None
        }
        Fate::Runs(machine) => Some(machine),
        Fate::Lost(why) => {
            tracing::error!(vm = %record.id, why, "a VMM may run that cannot be held; left as it is");
            is_lost = true;
            record.end(
                VmState::Crashed,
                LOST,
                format!("it may run still, the next start or removal ends it: {why}"),
            );
            // The next daemon may have more luck.
            record.process = process;
            None
        }
        Fate::Gone(why) => {
            record.end(
                VmState::Crashed,
                "crashed",
                format!("ended without bangerd: {why}"),
            );
            None
        }
        Fate::None => {
            if matches!(
                record.state,
                VmState::Starting | VmState::Running | VmState::Stopping
            ) {
                record.end(VmState::Crashed, "failed", "bangerd ended while it started");
            }
            None
        }
    };
    if record.state == VmState::Crashed && before != VmState::Crashed {
        if !is_lost {
            record.decide_retry();
        }
        let exit = record.exit.as_ref();
        let why = exit.map(|exit| (exit.reason.as_str(), exit.detail.as_str()));
        daemon.events().tell(EventKind::Crashed, &record, why);
    }
    let mut is_alone = machine.is_none() && !is_lost;
    if is_alone {
        // A VMM that was started but not yet recorded.
        let killed = tokio::task::spawn_blocking(move || strays::kill(&place)).await;
        if let Ok(Err(error)) = killed {
            is_alone = false;
            tracing::error!(vm = %record.id, %error, "look for a stray VMM");
        }
    }
    // With a VMM that cannot be killed the row stays: it alone tells whose that is.
    if goes && is_alone {
        match daemon.erase(&record.id).await {
            Ok(()) => {
                tracing::info!(vm = %record.id, "removed a leftover");
                return None;
            }
            Err(error) => tracing::error!(vm = %record.id, %error, "remove a leftover"),
        }
    }
    if machine.is_some() && record.state != VmState::Starting {
        record.state = VmState::Running;
        record.exit = None;
    }
    Some((record, machine))
}

/// What is known of a VM where nothing may be changed.
fn shown(mut record: VmRecord, fate: Fate) -> (VmRecord, Option<Arc<dyn Machine>>) {
    match fate {
        Fate::Runs(machine) => return (record, Some(machine)),
        Fate::Gone(why) | Fate::Lost(why) => record.end(VmState::Crashed, "crashed", why),
        Fate::None => {}
    }
    (record, None)
}

/// Has the helper remove what belongs to no VM that runs; tells whether it did.
async fn reclaim(daemon: &Arc<Daemon>, kept: Vec<VmRef>) -> bool {
    let Some(helper) = daemon.helper() else {
        return false;
    };
    let has_kept = !kept.is_empty();
    match helper.reclaim(kept).await {
        Ok(removed) => {
            for what in removed {
                tracing::info!(what, "reclaimed");
            }
            if has_kept {
                // Names can wait; whoever started us does not.
                drop(tokio::spawn(network::take_up(Arc::clone(daemon))));
            }
            true
        }
        Err(error) => {
            let refusal = error.refusal();
            tracing::error!(error = %network::told(&refusal), "reclaim what is left of VMs");
            false
        }
    }
}

/// Stores what became of a VM and gives it its driver.
async fn hand_over(daemon: &Arc<Daemon>, record: VmRecord, machine: Option<Arc<dyn Machine>>) {
    if let Err(error) = daemon.database().update(&record).await {
        tracing::error!(vm = %record.id, %error, "store what became of it");
    }
    tracing::info!(vm = %record.id, state = record.state.as_str(), "known");
    daemon.vms().add(Driver::spawn(daemon, record, machine));
}

async fn fate_of(daemon: &Daemon, record: &VmRecord, place: &VmPlace, log_cap: ByteSize) -> Fate {
    let Some(process) = &record.process else {
        return Fate::None;
    };
    let is_jailed = record.is_helped && record.engine_kind == EngineKind::Firecracker;
    let place = place.for_engine(log_cap, daemon.jail(record));
    let why = if is_jailed && daemon.helper().is_none() {
        "it runs in a jail, and there is no helper now".to_owned()
    } else {
        let adopting = daemon.adopt(record.engine_kind, process, &place);
        match tokio::time::timeout(ADOPT_LIMIT, adopting).await {
            Ok(Ok(machine)) => return Fate::Runs(Arc::from(machine)),
            Ok(Err(EngineError::NotOurs { reason, .. })) => return Fate::Gone(reason),
            Ok(Err(EngineError::Exited(exit))) => return Fate::Gone(exit.to_string()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        }
    };
    tracing::warn!(vm = %record.id, why, "a VMM cannot be reached");
    match banger_engine::unreachable(process, &place, format!("it cannot be reached: {why}")) {
        Ok(machine) => Fate::Runs(Arc::from(machine)),
        // Whose start only the helper can see is not proved to be gone by not being seen.
        Err(_) if is_jailed => Fate::Lost(why),
        Err(error) => Fate::Gone(error.to_string()),
    }
}

/// Takes up again the VMs whose rows were lost, by the copies of their records; notes the rest.
async fn recover(daemon: &Arc<Daemon>, rows: &[VmRecord]) -> Result<Vec<VmRecord>, Refusal> {
    let known: HashSet<VmId> = rows.iter().map(|record| record.id.clone()).collect();
    let root = place::state_root(daemon.dirs());
    let found = tokio::task::spawn_blocking({
        let root = root.clone();
        move || copies::orphans(&root, |id| known.contains(id))
    });
    let found = found.await.unwrap_or_else(|error| Err(error.into()));
    let found = found.map_err(|error| Refusal::io(format!("look into {root:?}"), &error))?;
    let mut recovered = Vec::new();
    let mut left = Vec::new();
    for copy in found {
        let taken_up = match copy {
            Ok(record) => take_up(daemon, record).await,
            Err(orphan) => Err(orphan),
        };
        match taken_up {
            Ok(record) => {
                tracing::warn!(vm = %record.id, name = %record.plan.name, "its row was lost; recovered");
                recovered.push(record);
            }
            Err(orphan) => {
                tracing::error!(vm = %orphan.id, why = orphan.why, "a VM's directory without a row; left as it is");
                left.push(orphan);
            }
        }
    }
    daemon.note_orphans(left);
    Ok(recovered)
}

/// Gives a VM its row again; under another name if its own is taken by now, and with another
/// address at its next start if that is.
async fn take_up(daemon: &Daemon, mut record: VmRecord) -> Result<VmRecord, Orphan> {
    let digits = record.id.as_str().trim_start_matches("vm-");
    let other_name = VmName::parse(&format!("recovered-{digits}")).expect("it is a label");
    loop {
        match daemon.database().insert(&mut record, None).await {
            Ok(()) => return Ok(record),
            Err(StoreError::Taken { what: "name", .. }) if record.plan.name != other_name => {
                record.plan.name = other_name.clone();
            }
            Err(StoreError::Taken {
                what: "address", ..
            }) if record.address.is_some() => record.address = None,
            Err(error) => {
                return Err(Orphan {
                    id: record.id,
                    why: error.to_string(),
                });
            }
        }
    }
}

/// Removes what the start found and left, and everything of the helper's that belongs to no VM
/// that runs. Gives what was removed and what could not be.
pub(crate) async fn tidy(daemon: &Arc<Daemon>) -> (Vec<String>, Vec<String>) {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    let mut remaining = Vec::new();
    for orphan in daemon.orphans() {
        let place = VmPlace::of(daemon.dirs(), &orphan.id);
        let path = place.state.display().to_string();
        let erased = tokio::task::spawn_blocking(move || {
            strays::kill(&place)?;
            place.remove_run()?;
            place.remove_state()
        });
        match erased.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(()) => removed.push(path),
            Err(error) => {
                left.push(format!("{path}: {error}"));
                remaining.push(orphan);
            }
        }
    }
    daemon.note_orphans(remaining);
    if let Some(helper) = daemon.helper() {
        match helper.status().await {
            Ok(status) => {
                // Asked first: whatever the helper makes, it makes for a VM that is known by then.
                let known: HashSet<VmId> =
                    daemon.vms().all().iter().map(|vm| vm.id.clone()).collect();
                for entry in status
                    .vms
                    .iter()
                    .filter(|entry| !known.contains(&entry.vm.id))
                {
                    match helper.release(&entry.vm, entry.has_snapshot).await {
                        Ok(()) => removed.push(format!("what the helper made for {}", entry.vm)),
                        Err(error) => left.push(network::told(&error.refusal())),
                    }
                }
            }
            Err(error) => left.push(network::told(&error.refusal())),
        }
    }
    (removed, left)
}

/// Removes the run directories below `root` of VMs that are not `known`, with the VMMs that live
/// in them.
fn sweep(root: &Path, known: &HashSet<VmId>) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return; // nothing was made yet
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| VmId::parse(name).ok()) else {
            continue; // not ours
        };
        if known.contains(&id) {
            continue;
        }
        let lone = VmPlace {
            run: entry.path(),
            state: entry.path(),
        };
        if let Err(error) = strays::kill(&lone).and_then(|()| lone.remove_state()) {
            tracing::error!(vm = %id, %error, "sweep a directory that nobody knows");
        } else {
            tracing::info!(vm = %id, path = %entry.path().display(), "swept");
        }
    }
}
