//! Keeps room on the host's disk while VMs write, for all of them may be promised more than there is.
//!
//! A VM that is made or started needs the whole reserve free. When less than half of it is, whoever
//! took most of it ends: were the disk to fill up, this guest would be lost too, and with it every other that
//! writes, their snapshots and the database. What somebody else took of the disk ends nobody.

use super::create::disk_free;
use super::handle::VmHandle;
use super::place::VmPlace;
use crate::daemon::Daemon;
use banger_api::VmState;
use banger_names::{ByteSize, VmId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The longest time between two looks, and the shortest.
const NAPS: [Duration; 2] = [Duration::from_secs(2), Duration::from_millis(100)];

/// What a fast disk may take within the shortest time: 2 GiB a second.
const FASTEST: ByteSize = ByteSize::mib(205);

/// A VM that took less than this is not why there is too little.
const BLAMED: ByteSize = ByteSize::mib(16);

/// How long a VM may take to end before the next look.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Looks at the disk while any VM runs, until the daemon ends.
pub(crate) async fn keep(daemon: Arc<Daemon>) {
    let closing = daemon.closing().clone();
    closing.run_until_cancelled(keep_on(&daemon)).await;
}

async fn keep_on(daemon: &Arc<Daemon>) {
    let mut told = daemon.events().next();
    let mut taken = Taken::default();
    loop {
        told.mark_unchanged();
        let running = running(daemon);
        if running.is_empty() {
            taken = Taken::default();
            // A VM's start is an event.
            if told.changed().await.is_err() {
                return;
            }
            continue;
        }
        let nap = look(daemon, &running, &mut taken).await;
        tokio::time::sleep(nap).await;
    }
}

fn running(daemon: &Daemon) -> Vec<VmHandle> {
    let all = daemon.vms().all().into_iter();
    all.filter(|vm| vm.state() == VmState::Running).collect()
}

/// Looks once, ends a VM if that must be, and says when to look again.
async fn look(daemon: &Arc<Daemon>, running: &[VmHandle], taken: &mut Taken) -> Duration {
    let reserve = daemon.limits().reserve;
    let floor = ByteSize(reserve.0 / 2);
    let (looked, ids) = (Arc::clone(daemon), running.iter().map(|vm| vm.id.clone()));
    let ids: Vec<VmId> = ids.collect();
    let looking = tokio::task::spawn_blocking(move || {
        let dirs = looked.dirs();
        let used = ids.into_iter().map(|id| {
            let used = VmPlace::of(dirs, &id).disk_used();
            (id, used)
        });
        let used: HashMap<VmId, ByteSize> = used.collect();
        disk_free(&dirs.state).map(|free| (free, used))
    });
    let (free, used) = match looking.await {
        Ok(Ok(seen)) => seen,
        Ok(Err(refusal)) => {
            tracing::warn!(%refusal, "keep room on the disk");
            return NAPS[0];
        }
        Err(error) => {
            tracing::error!(%error, "keep room on the disk");
            return NAPS[0];
        }
    };
    taken.note(used, free >= reserve);
    let most = taken.most().filter(|_| free < floor);
    let Some(vm) = most.and_then(|id| running.iter().find(|vm| vm.id == *id)) else {
        return nap(free, floor);
    };
    tracing::warn!(vm = %vm.id, %free, "it took most of what must stay free on the disk, and ends");
    match tokio::time::timeout(END_LIMIT, vm.end_for_room(free)).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => tracing::error!(vm = %vm.id, %refusal, "end a VM for room on the disk"),
        Err(_) => tracing::warn!(vm = %vm.id, "it takes long to end"),
    }
    // What the others took until now was not too much.
    *taken = Taken::default();
    NAPS[1]
}

/// How long it takes at least until the floor is reached.
fn nap(free: ByteSize, floor: ByteSize) -> Duration {
    let [longest, shortest] = NAPS;
    let turns = free.0.saturating_sub(floor.0) / FASTEST.0;
    let turns = u32::try_from(turns).unwrap_or(u32::MAX);
    shortest.saturating_mul(turns).clamp(shortest, longest)
}

/// What each running VM's disk took when there was room enough, or when it was seen first, and takes now.
#[derive(Debug, Default)]
struct Taken {
    vms: HashMap<VmId, [ByteSize; 2]>,
}

impl Taken {
    fn note(&mut self, used: HashMap<VmId, ByteSize>, is_enough: bool) {
        let noted = used.into_iter().map(|(id, now)| {
            let before = self.vms.get(&id).filter(|_| !is_enough);
            (id.clone(), [before.map_or(now, |[then, _]| *then), now])
        });
        self.vms = noted.collect();
    }

    /// Who took most since then, if that is much.
    fn most(&self) -> Option<&VmId> {
        let grown = self.vms.iter();
        let grown = grown.map(|(id, [then, now])| (now.0.saturating_sub(then.0), id));
        let (much, id) = grown.max()?;
        (much >= BLAMED.0).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(sizes: [u64; 2]) -> HashMap<VmId, ByteSize> {
        let ids = [1, 2].map(VmId::from_bits);
        ids.into_iter().zip(sizes.map(ByteSize::mib)).collect()
    }

    #[test]
    fn who_took_most_since_there_was_enough_is_told_also_a_slow_one() {
        let mut taken = Taken::default();
        taken.note(used([900, 10]), true);
        assert_eq!(taken.most(), None);
        // Little by little counts together; what was there before does not.
        for step in 1..=4 {
            assert_eq!(taken.most(), None);
            taken.note(used([901, 10 + 5 * step]), false);
        }
        assert_eq!(taken.most(), Some(&VmId::from_bits(2)));
        taken.note(used([901, 30]), true);
        assert_eq!(taken.most(), None);
        // One that was removed is forgotten, one that shrank took nothing.
        taken.note(used([1, 500]), false);
        taken.note(HashMap::new(), false);
        assert_eq!(taken.most(), None);
    }

    #[test]
    fn the_less_room_there_is_the_more_often_it_is_looked_at() {
        let floor = ByteSize::mib(512);
        let after = |free| nap(ByteSize::mib(free), floor).as_millis();
        assert_eq!(after(100_000), 2000);
        assert_eq!(after(512 + 205 * 5), 500);
        assert_eq!(after(600), 100);
        assert_eq!(after(0), 100);
    }
}
