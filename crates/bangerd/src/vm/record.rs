//! What is stored about a VM.

use super::ending;
use super::moment::Moment;
use super::plan::VmPlan;
use super::policy;
use banger_api::{VmExitView, VmState};
use banger_engine::{EngineKind, ProcessId};
use banger_names::{ByteSize, VmId, VmName, VmRef};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A VM as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VmRecord {
    /// Its id.
    pub(crate) id: VmId,
    /// What was decided when it was made.
    pub(crate) plan: VmPlan,
    /// When it was made, in milliseconds since 1970.
    pub(crate) created_unix_ms: u64,
    /// How often it was started.
    pub(crate) generation: u64,
    /// Where it was in its life when this was written.
    pub(crate) state: VmState,
    /// Whether its disk was made; from then on a missing disk is an error, not a new disk.
    pub(crate) has_disk: bool,
    /// Whether the life before its last start may have left its disk unclean.
    #[serde(default)]
    pub(crate) needs_check: bool,
    /// What runs it, in one line for people.
    pub(crate) engine: Option<String>,
    /// Which engine last ran it.
    #[serde(default = "first_engine")]
    pub(crate) engine_kind: EngineKind,
    /// Its VMM, while it runs.
    pub(crate) process: Option<ProcessId>,
    /// Its address on the host's bridge, for as long as it is there.
    #[serde(default)]
    pub(crate) address: Option<Ipv4Addr>,
    /// Whether the helper made something for its last start that was not removed yet.
    #[serde(default)]
    pub(crate) is_helped: bool,
    /// What its last start gave it, where the plan may have changed since.
    #[serde(default)]
    pub(crate) given: Option<Given>,
    /// When it was last started.
    pub(crate) started_unix_ms: Option<u64>,
    /// From the last start to the agent's answer, in milliseconds.
    pub(crate) boot_ms: Option<u64>,
    /// How its last life ended.
    pub(crate) exit: Option<VmExitView>,
    /// When its last life began.
    #[serde(default)]
    pub(crate) began: Option<Moment>,
    /// From when on its time runs out: since it runs after a start by a command, or has a new limit.
    #[serde(default)]
    pub(crate) lease: Option<Moment>,
    /// How often it was started by itself since a command did or it ran for long.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// The start by itself that it waits for.
    #[serde(default)]
    pub(crate) retry: Option<Retry>,
}

/// A start that is to come by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retry {
    /// How many in a row that makes.
    pub(crate) restarts: u32,
    /// When the wait began.
    pub(crate) since: Moment,
    /// How long it takes.
    pub(crate) wait: Duration,
}

impl Retry {
    /// How long is still to be waited.
    pub(crate) fn left(&self, now: &Moment) -> Duration {
        self.wait.saturating_sub(self.since.until(now))
    }
}

/// What a start gives a VM and cannot be changed until the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    /// Its host name.
    pub(crate) name: VmName,
    /// Virtual CPUs.
    pub(crate) cpus: u32,
    /// Memory.
    pub(crate) memory: ByteSize,
}

impl Given {
    fn of(plan: &VmPlan) -> Self {
        Self {
            name: plan.name.clone(),
            cpus: plan.cpus,
            memory: plan.memory,
        }
    }
}

impl VmRecord {
    /// A VM that was never started.
    pub(crate) fn new(id: VmId, plan: VmPlan) -> Self {
        Self {
            id,
            plan,
            created_unix_ms: now_unix_ms(),
            generation: 0,
            state: VmState::Created,
            has_disk: false,
            needs_check: false,
            engine: None,
            engine_kind: first_engine(),
            process: None,
            address: None,
            is_helped: false,
            given: None,
            started_unix_ms: None,
            boot_ms: None,
            exit: None,
            began: None,
            lease: None,
            restarts: 0,
            retry: None,
        }
    }

    /// Its last start, as the helper knows it. `None`: there was none.
    pub(crate) fn last_start(&self) -> Option<VmRef> {
        let generation = u32::try_from(self.generation).ok()?;
        (generation > 0).then(|| VmRef {
            id: self.id.clone(),
            generation,
        })
    }

    /// Begins another life: the one that it waits for by itself, or one that a command wants.
    pub(crate) fn begin(&mut self, is_by_itself: bool) {
        let now = Moment::now();
        match self.retry.take() {
            Some(retry) if is_by_itself => self.restarts = retry.restarts,
            _ => {
                self.restarts = 0;
                self.lease = None;
            }
        }
        self.began = Some(now);
        self.generation += 1;
        let last = self.exit.as_ref().map(|exit| exit.reason.as_str());
        self.needs_check = self.has_disk && !last.is_some_and(ending::is_clean);
        self.state = VmState::Starting;
        self.given = Some(Given::of(&self.plan));
        self.started_unix_ms = Some(now_unix_ms());
        self.boot_ms = None;
        self.exit = None;
    }

    /// Whether something that was decided since the last start waits for the next one.
    pub(crate) fn needs_restart(&self) -> bool {
        self.process.is_some()
            && self
                .given
                .as_ref()
                .is_some_and(|given| *given != Given::of(&self.plan))
    }

    /// Decides whether and when a VM that has ended without being asked to is started again.
    pub(crate) fn decide_retry(&mut self) {
        self.retry = policy::retry(self, &Moment::now());
    }

    /// Ends this life.
    pub(crate) fn end(&mut self, state: VmState, reason: &str, detail: impl Into<String>) {
        self.state = state;
        self.engine = None;
        self.process = None;
        self.exit = Some(VmExitView {
            reason: reason.to_owned(),
            detail: detail.into(),
            at_unix_ms: now_unix_ms(),
        });
    }
}

/// The engine of records that do not name theirs: once there was only one.
fn first_engine() -> EngineKind {
    EngineKind::Qemu
}

/// The time, in milliseconds since 1970.
pub(crate) fn now_unix_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::vm::plan::{HostFacts, ImageFacts, RESERVE, draft};
    use banger_api::{Config, NetworkMode, VmSpec};
    use banger_names::Digest;

    /// A VM of this name.
    pub(crate) fn record(name: &str) -> VmRecord {
        let spec = VmSpec {
            name: Some(name.parse().unwrap()),
            ..VmSpec::default()
        };
        let facts = HostFacts {
            memory: ByteSize::gib(4),
            disk_free: ByteSize::gib(4),
            reserve: RESERVE,
            has_helper: false,
            network: NetworkMode::User,
        };
        let id = VmId::from_bits(7);
        let digest = Digest::from_sha256([7; 32]);
        let image = ImageFacts {
            digest: digest.clone(),
            size: ByteSize::gib(1),
        };
        let plan = draft(&spec, &Config::default(), &facts, false)
            .unwrap()
            .resolve(&id, image, "k".parse().unwrap(), digest)
            .unwrap();
        VmRecord::new(id, plan)
    }
}
