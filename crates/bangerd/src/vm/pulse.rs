//! Whether a VM's VMM still answers: every 0.7 s the kernel is asked whether it was stopped, and
//! a running VM's VMM for a sign of life. Its guest is never asked: one that is busy is not hung.
//!
//! What is found is shown and told, and nothing is done about it: a VMM that is stuck may come
//! back, and whoever wants it gone can kill it. In the same breath the kernel's count of what it
//! killed for want of memory is noted, so that an end by KILL is known for what it was.

use super::handle::Snapshot;
use super::record::now_unix_ms;
use super::stats;
use crate::daemon::Daemon;
use banger_api::{EventKind, HungView, VmState};
use banger_engine::{EngineError, Machine, VmmExit, is_stopped};
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long lies between two looks. With [`LIMIT`] it is less than the 2 s in which a hang is seen.
const EVERY: Duration = Duration::from_millis(700);

/// How long a VMM may take to answer.
const LIMIT: Duration = Duration::from_millis(800);

/// When our own timer is so late, everything on this host is, and silence says nothing.
const LATE: Duration = Duration::from_millis(200);

/// Where the kernel counts what it killed for want of memory: all on this host.
const ALL_KILLS: &str = "/proc/vmstat";

/// The same, of jailed VMMs only, of which each has a group of its own beneath this one. Its own
/// goes with it, too early to be read.
const JAILED_KILLS: &str = "/sys/fs/cgroup/banger.slice/memory.events";

/// How many looks back an end is judged from: the kernel counts a process when it kills it, and one
/// with much memory may take two seconds to be gone.
const REMEMBERED: usize = 4;

/// How long a VMM that is busy meanwhile may take to answer: its host may be, or its disk.
const WORKS_ON: Duration = Duration::from_secs(5);

/// What part of the time of its silence makes a VMM busy. The question itself costs it a little.
const BUSY_PART: u32 = 10;

/// What the kernel did for want of memory around the end of a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It killed something within the last seconds.
    RanOut,
    /// It killed nothing.
    Sufficed,
    /// It does not tell.
    Unknown,
}

/// The watch over one VMM; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pulse {
    found: watch::Receiver<Option<HungView>>,
    kills: Arc<Kills>,
    task: AbortHandle,
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pulse {
    /// Watches the VMM of a VM of which `truth` is told.
    pub(super) fn of(
        daemon: &Arc<Daemon>,
        machine: Arc<dyn Machine>,
        truth: watch::Receiver<Snapshot>,
    ) -> Self {
        let (tell, found) = watch::channel(None);
        let is_jailed = daemon.jail(&truth.borrow().record).is_some();
        let counter = match is_jailed {
            true => Counter::File(JAILED_KILLS.into()),
            false => Counter::GroupOf(machine.process().pid),
        };
        let kills = Arc::new(Kills::by(counter));
        let watcher = Watcher {
            daemon: Arc::clone(daemon),
            machine,
            truth,
            tell,
            kills: Arc::clone(&kills),
            asking: None,
        };
        Self {
            found,
            kills,
            task: tokio::spawn(watcher.run()).abort_handle(),
        }
    }

    /// What it finds.
    pub(super) fn found(&self) -> watch::Receiver<Option<HungView>> {
        self.found.clone()
    }

    /// Whether an end that nobody here asked for was for want of memory.
    pub(super) async fn memory(&self, exit: &VmmExit) -> Memory {
        // The kernel kills by KILL; of a VMM that was adopted not even that is known.
        if exit.code.is_some() || exit.signal.is_some_and(|signal| signal != KILL) {
            return Memory::Sufficed;
        }
        let kills = Arc::clone(&self.kills);
        let since = tokio::task::spawn_blocking(move || kills.since());
        since.await.unwrap_or(Memory::Unknown)
    }
}

/// The number of the signal that the kernel kills by.
const KILL: i32 = 9;

struct Watcher {
    daemon: Arc<Daemon>,
    machine: Arc<dyn Machine>,
    truth: watch::Receiver<Snapshot>,
    tell: watch::Sender<Option<HungView>>,
    kills: Arc<Kills>,
    /// A question that was not answered yet, and when it was asked. Another one would have to wait behind it.
    asking: Option<(Instant, Answer)>,
}

/// A VMM's answer to come.
type Answer = BoxFuture<'static, Result<(), EngineError>>;

impl Watcher {
    async fn run(mut self) {
        loop {
            // What cannot be told now has been waited for already.
            if let Some(finding) = self.look().await {
                // Of one that has ended its end is told, once what it leaves was removed.
                if finding.is_ok() || self.machine.is_alive() {
                    self.note(finding);
                }
                tokio::time::sleep(EVERY).await;
            }
        }
    }

    /// What keeps the VMM from answering, if anything does; `None`: that cannot be told now.
    async fn look(&mut self) -> Option<Result<(), String>> {
        let (machine, kills) = (Arc::clone(&self.machine), Arc::clone(&self.kills));
        let record = Arc::clone(&self.truth.borrow().record);
        let is_running = record.state == VmState::Running;
        let looking = tokio::task::spawn_blocking(move || {
            // What is counted after its end is not to be taken for what was before.
            if machine.is_alive() {
                kills.note();
            }
            (is_stopped(machine.process()), stats::busy(&record))
        });
        let (is_stopped, busy) = looking.await.unwrap_or_default();
        if is_stopped {
            return Some(Err("its VMM was stopped, by a signal or a debugger".into()));
        }
        // One that boots is not to be disturbed, one that powers off may not answer; both have
        // a deadline of their own.
        if !is_running {
            return Some(Ok(()));
        }
        self.ask(busy).await
    }

    /// Asks for a sign of life; `before` is how long the VMM has been busy so far.
    async fn ask(&mut self, before: Option<u64>) -> Option<Result<(), String>> {
        let machine = Arc::clone(&self.machine);
        let (asked, asking) = self.asking.get_or_insert_with(|| {
            let answer: Answer = Box::pin(async move { machine.answers().await });
            (Instant::now(), answer)
        });
        let (asked, began) = (*asked, Instant::now());
        if let Ok(answer) = tokio::time::timeout(LIMIT, asking).await {
            self.asking = None;
            return Some(answer.map_err(|error| one_line(&error)));
        }
        let silence = began.elapsed();
        let is_late = silence > LIMIT + LATE;
        let record = Arc::clone(&self.truth.borrow().record);
        let now = tokio::task::spawn_blocking(move || stats::busy(&record)).await;
        let part = u64::try_from((silence / BUSY_PART).as_nanos()).unwrap_or(u64::MAX);
        // Less than before: a thread is done with its disk, or gone.
        let is_busy = before
            .zip(now.ok().flatten())
            .is_some_and(|(before, now)| now.checked_sub(before).is_none_or(|grown| grown >= part));
        match (is_late, is_busy) {
            (_, true) if asked.elapsed() >= WORKS_ON => {
                Some(Err("its VMM is busy and does not answer".into()))
            }
            (true, _) | (_, true) => None,
            (false, false) => Some(Err("its VMM does not answer".into())),
        }
    }

    fn note(&self, finding: Result<(), String>) {
        let was = self.tell.borrow().clone();
        let (event, now) = match (was, finding) {
            (None, Ok(())) => return,
            (Some(was), Ok(())) => {
                let ms = now_unix_ms().saturating_sub(was.since_unix_ms);
                let for_long = format!("after {}.{} s", ms / 1000, ms % 1000 / 100);
                (Some((EventKind::Recovered, for_long)), None)
            }
            (None, Err(why)) => {
                let since_unix_ms = now_unix_ms();
                let hung = HungView {
                    since_unix_ms,
                    why: why.clone(),
                };
                (Some((EventKind::Hung, why)), Some(hung))
            }
            (Some(was), Err(why)) if why == was.why => return,
            (Some(was), Err(why)) => (None, Some(HungView { why, ..was })),
        };
        self.tell.send_replace(now);
        if let Some((event, detail)) = event {
            let record = Arc::clone(&self.truth.borrow().record);
            tracing::warn!(vm = %record.id, event = event.as_str(), detail, "pulse");
            let why = Some((event.as_str(), detail.as_str()));
            self.daemon.events().tell(event, &record, why);
        }
    }
}

fn one_line(error: &EngineError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// The kernel's count of processes that it killed for want of memory, as it was lately.
#[derive(Debug)]
struct Kills {
    counter: Counter,
    /// What was seen lately and where, the newest last.
    seen: Mutex<VecDeque<(PathBuf, Option<u64>)>>,
}

/// Who counts.
#[derive(Debug)]
enum Counter {
    /// This file.
    File(PathBuf),
    /// The control group that this process is in.
    GroupOf(i32),
}

impl Counter {
    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::GroupOf(pid) => {
                let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
                let group = groups.ok().and_then(|groups| group_file(&groups));
                group.unwrap_or_else(|| ALL_KILLS.into())
            }
        }
    }
}

/// The file that counts for a process of these groups, as `/proc/PID/cgroup` shows them: of version 1's
/// memory controller, or of the nearest group of version 2 that has one.
fn group_file(groups: &str) -> Option<PathBuf> {
    let tree = Path::new("/sys/fs/cgroup");
    let mut lines = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        Some((controllers, path.trim_start_matches('/')))
    });
    let (controllers, path) = lines.find(|(controllers, _)| {
        let mut named = controllers.split(',');
        controllers.is_empty() || named.any(|name| name == "memory")
    })?;
    if !controllers.is_empty() {
        return Some(tree.join("memory").join(path).join("memory.oom_control"));
    }
    let group = tree.join(path);
    let mut files = group.ancestors().map(|dir| dir.join("memory.events"));
    files.find(|file| file.is_file())
}

impl Kills {
    fn by(counter: Counter) -> Self {
        let kills = Self {
            counter,
            seen: Mutex::default(),
        };
        kills.note();
        kills
    }

    fn note(&self) {
        let path = self.counter.path();
        let count = stats::oom_kills(&path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push_back((path, count));
        if seen.len() > REMEMBERED {
            seen.pop_front();
        }
    }

    /// Compares with what was seen in the same place: a process may be moved.
    fn since(&self) -> Memory {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((path, _)) = seen.back() else {
            return Memory::Unknown;
        };
        let then = seen.iter().find(|(other, _)| other == path);
        match (then.and_then(|(_, count)| *count), stats::oom_kills(path)) {
            (Some(then), Some(now)) if now > then => Memory::RanOut,
            (Some(_), Some(_)) => Memory::Sufficed,
            _ => Memory::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_end_is_for_want_of_memory_if_the_kernel_counted_one_lately() {
        let temp = tempfile::tempdir().unwrap();
        let counter = temp.path().join("memory.events");
        let events = |count: u64| fs::write(&counter, format!("oom 9\noom_kill {count}\n"));
        events(3).unwrap();
        let kills = Kills::by(Counter::File(counter.clone()));
        assert_eq!(kills.since(), Memory::Sufficed);
        events(4).unwrap();
        assert_eq!(kills.since(), Memory::RanOut);
        // A large one takes a while to die.
        kills.note();
        assert_eq!(kills.since(), Memory::RanOut);
        for _ in 0..REMEMBERED {
            kills.note();
        }
        assert_eq!(kills.since(), Memory::Sufficed);
        fs::remove_file(&counter).unwrap();
        assert_eq!(kills.since(), Memory::Unknown);
    }

    #[test]
    fn a_process_is_counted_where_its_memory_is() {
        let one = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n";
        assert_eq!(
            group_file(one).unwrap().to_str(),
            Some("/sys/fs/cgroup/memory/a/b/memory.oom_control")
        );
        // No group of that name, and none above it that counts: nobody does.
        assert_eq!(group_file("0::/no-such-group\n"), group_file("0::/\n"));
        assert_eq!(group_file("garbage"), None);
    }
}
