//! At start: what runs, then what was stored, then what lies around.
//!
//! The kernel is asked first: a recorded VMM is ours only if the engine proves by pidfd,
//! start time and boot id that it is the same process. Then every record is brought into
//! line with that, and last the directories of VMs that nobody knows are removed: they are
//! ours by their place and the form of their name, in directories that only we can write.
//! What the helper made is asked of the helper: the VMMs that it says run are taken over, all
//! else that it has is reclaimed.

mod strays;

use crate::daemon::Daemon;
use crate::network;
use crate::problem::Refusal;
use crate::vm::driver::Driver;
use crate::vm::place::{self, VmPlace};
use crate::vm::record::VmRecord;
use banger_api::VmState;
use banger_engine::{EngineError, EngineKind, Machine};
use banger_names::{ByteSize, VmId, VmRef};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a VMM may take to answer when it is taken over.
const ADOPT_LIMIT: Duration = Duration::from_secs(30);

/// How long a VMM may take to be gone after KILL.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// What became of a recorded VMM.
enum Fate {
    /// None was recorded.
    None,
    /// It runs and is ours.
    Runs(Arc<dyn Machine>),
    /// It is gone, or another process has its number.
    Gone(String),
    /// It seems to run but cannot be taken over.
    Stuck(String),
}

/// Brings records, processes and directories into line.
pub(crate) async fn reconcile(daemon: &Arc<Daemon>) -> Result<(), Refusal> {
    let records = daemon.database().all().await?;
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
    let mut known = HashSet::new();
    let mut kept = Vec::new();
    let mut settled = Vec::new();
    for record in records {
        known.insert(record.id.clone());
        if let Some((record, machine)) = settle(daemon, record, log_cap).await {
            if machine.is_some() && record.is_helped {
                kept.extend(record.last_start());
            }
            settled.push((record, machine));
        }
    }
    let is_reclaimed = reclaim(daemon, kept).await;
    for (mut record, machine) in settled {
        if machine.is_none() && is_reclaimed {
            record.is_helped = false;
        }
        hand_over(daemon, record, machine).await;
    }
    let dirs = daemon.dirs().clone();
    let swept = tokio::task::spawn_blocking(move || {
        for root in [place::state_root(&dirs), place::run_root(&dirs)] {
            sweep(&root, &known);
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
    let goes = record.plan.ephemeral || record.state == VmState::Removing;
    let fate = fate_of(daemon, &record, &place, log_cap).await;
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
        Fate::Stuck(why) => {
            tracing::warn!(vm = %record.id, why, "a VMM cannot be taken over; killing it");
            record.end(
                VmState::Crashed,
                "crashed",
                format!("lost with the daemon: {why}"),
            );
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
    let mut is_alone = machine.is_none();
    if machine.is_none() {
        // A VMM that was started but not yet recorded, or one that does not answer.
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
    }
    Some((record, machine))
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
    if record.is_helped
        && record.engine_kind == EngineKind::Firecracker
        && daemon.helper().is_none()
    {
        return Fate::Stuck("it runs in a jail, and there is no helper now".into());
    }
    let place = place.for_engine(log_cap, daemon.jail(record));
    let adopting = daemon.adopt(record.engine_kind, process, &place);
    match tokio::time::timeout(ADOPT_LIMIT, adopting).await {
        Ok(Ok(machine)) => Fate::Runs(Arc::from(machine)),
        Ok(Err(EngineError::NotOurs { reason, .. })) => Fate::Gone(reason),
        Ok(Err(EngineError::Exited(exit))) => Fate::Gone(exit.to_string()),
        Ok(Err(error)) => Fate::Stuck(error.to_string()),
        Err(_) => Fate::Stuck("it does not answer".into()),
    }
}

/// Removes the VM directories below `root` that are not `known`, with the VMMs that live in them.
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
