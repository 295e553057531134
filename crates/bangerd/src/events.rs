//! What happened to VMs: the last events in memory and, capped, in a file.
//!
//! Whoever tells an event waits for nobody: readers take from the ring at their own pace, and one
//! that is too slow learns how many it missed. The file is a report, not the truth: it is written
//! behind and not flushed to the disk. The truth is in the database.

use crate::files::open_regular;
use crate::vm::record::{VmRecord, now_unix_ms};
use banger_api::{EventKind, EventView};
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How many events are kept in memory.
const KEPT: usize = 1000;

/// How large the file grows before it takes its predecessor's place, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// The longest detail that is kept, in characters.
const MAX_DETAIL: usize = 300;

/// The events of a daemon.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    ring: Arc<Mutex<Ring>>,
    /// The number of the next event.
    next: Arc<watch::Sender<u64>>,
    tasks: TaskTracker,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<EventView>>,
    next: u64,
    /// What is not in the file yet.
    unwritten: VecDeque<Arc<EventView>>,
    is_writing: bool,
}

/// What a reader gets next.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// How many events before these are gone.
    pub(crate) missed: u64,
    pub(crate) events: Vec<Arc<EventView>>,
}

impl Events {
    /// The events of the daemon whose file is `path`, with those of the daemons before. Blocks.
    /// What cannot be read is left out.
    pub(crate) fn open(path: &Path, tasks: TaskTracker) -> Self {
        let mut events: VecDeque<Arc<EventView>> = VecDeque::new();
        for file in [old_of(path), path.to_owned()] {
            match read(&file) {
                Ok(text) => events.extend(
                    text.lines()
                        .filter_map(|line| serde_json::from_str(line).ok().map(Arc::new)),
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(file = %file.display(), %error, "read former events"),
            }
        }
        events.drain(..events.len().saturating_sub(KEPT));
        let next = events.back().map_or(1, |event| event.seq + 1);
        let ring = Ring {
            events,
            next,
            ..Ring::default()
        };
        Self {
            ring: Arc::new(Mutex::new(ring)),
            next: Arc::new(watch::Sender::new(next)),
            tasks,
            path: path.to_owned(),
        }
    }

    /// Tells that something happened to a VM.
    pub(crate) fn tell(&self, event: EventKind, record: &VmRecord, why: Option<(&str, &str)>) {
        let mut ring = self.lock();
        let event = Arc::new(EventView {
            seq: ring.next,
            at_unix_ms: now_unix_ms(),
            event,
            id: record.id.clone(),
            name: record.plan.name.clone(),
            reason: why.map(|(reason, _)| reason.to_owned()),
            detail: why
                .filter(|(_, detail)| !detail.is_empty())
                .map(|(_, detail)| detail.chars().take(MAX_DETAIL).collect()),
        });
        ring.next += 1;
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::clone(&event));
        // Without a disk to write to, only the newest are worth a try.
        if ring.unwritten.len() == KEPT {
            ring.unwritten.pop_front();
        }
        ring.unwritten.push_back(event);
        let next = ring.next;
        let begins = !std::mem::replace(&mut ring.is_writing, true);
        drop(ring);
        self.next.send_replace(next);
        if begins {
            let writer = self.clone();
            self.tasks.spawn_blocking(move || writer.write_all());
        }
    }

    /// Up to `most` events from number `from` on.
    pub(crate) fn from(&self, from: u64, most: usize) -> Batch {
        let ring = self.lock();
        let Some(first) = ring.events.front() else {
            return Batch::default();
        };
        let missed = first.seq.saturating_sub(from);
        let events = ring.events.iter().filter(|event| event.seq >= from);
        Batch {
            missed,
            events: events.take(most).cloned().collect(),
        }
    }

    /// The number of the oldest event that is there.
    pub(crate) fn oldest(&self) -> u64 {
        let ring = self.lock();
        ring.events.front().map_or(ring.next, |event| event.seq)
    }

    /// The number of the next event, and a way to learn when there is one.
    pub(crate) fn next(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    fn write_all(&self) {
        loop {
            let events = {
                let mut ring = self.lock();
                if ring.unwritten.is_empty() {
                    ring.is_writing = false;
                    return;
                }
                std::mem::take(&mut ring.unwritten)
            };
            if let Err(error) = write(&self.path, &events) {
                tracing::warn!(%error, count = events.len(), "write events");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // What is under the lock cannot panic half-way.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn old_of(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    old.into()
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(2 * MAX_FILE)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(path: &Path, events: &VecDeque<Arc<EventView>>) -> io::Result<()> {
    let mut text = Vec::new();
    for event in events {
        serde_json::to_writer(&mut text, event.as_ref())?;
        text.push(b'\n');
    }
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.len() >= MAX_FILE) {
        std::fs::rename(path, old_of(path))?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?
        .write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::record::tests::record;

    async fn written(tasks: &TaskTracker) {
        tasks.close();
        tasks.wait().await;
        tasks.reopen();
    }

    #[tokio::test]
    async fn the_last_are_kept_and_the_others_counted_also_by_the_next_daemon() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("events");
        let tasks = TaskTracker::new();
        let events = Events::open(&path, tasks.clone());
        let vm = record("dev");
        for _ in 0..KEPT + 20 {
            events.tell(EventKind::Crashed, &vm, Some(("killed", "by\u{1b}[31m")));
        }
        let batch = events.from(1, 5);
        assert_eq!((batch.missed, batch.events.len()), (20, 5));
        assert_eq!(batch.events[0].seq, 21);
        assert_eq!(events.from(1015, usize::MAX).events.len(), 6);
        assert_eq!(events.from(1021, usize::MAX).events.len(), 0);
        written(&tasks).await;

        let events = Events::open(&path, tasks.clone());
        events.tell(EventKind::Removed, &vm, None);
        let last = events.from(1020, usize::MAX);
        let seen: Vec<_> = last.events.iter().map(|event| event.seq).collect();
        assert_eq!((last.missed, seen), (0, vec![1020, 1021]));
        assert_eq!(last.events[0].detail.as_deref(), Some("by\u{1b}[31m"));
        written(&tasks).await;
    }

    #[tokio::test]
    async fn the_file_stays_small_and_a_broken_line_costs_only_itself() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("events");
        let tasks = TaskTracker::new();
        let vm = record("dev");
        let detail = "x".repeat(MAX_DETAIL * 2);
        let events = Events::open(&path, tasks.clone());
        for _ in 0..40 {
            for _ in 0..100 {
                events.tell(EventKind::Crashed, &vm, Some(("crashed", &detail)));
            }
            written(&tasks).await;
        }
        let size: u64 = std::fs::read_dir(temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size < 3 * MAX_FILE, "{size}");
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"seq\":\xff\n");
        std::fs::write(&path, text).unwrap();
        assert_eq!(*Events::open(&path, tasks).next().borrow(), 4001);
    }
}
