//! A VM's logs as they are: raw bytes, hostile until the client sanitises them.
//!
//! A log that is followed is watched by inotify, also over the moment when its writer puts a
//! full file aside and begins a new one; the answer ends when the VM does.

mod begin;

use super::body::{Params, Word};
use crate::daemon::Daemon;
use crate::files::{CONSOLE_LOG, VMM_LOG};
use crate::problem::Refusal;
use crate::vm::handle::{Snapshot, VmHandle};
use crate::vm::place::VmPlace;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::{LogSource, ProblemBody, VmState};
use begin::{Position, open};
use rustix::fs::inotify;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::unix::pipe::Receiver as Watch;
use tokio::sync::mpsc;

/// The size of one part of the answer, in bytes.
const PART: usize = 32 * 1024;

/// Parts that wait for a client that reads slowly.
const QUEUE: usize = 4;

/// Which log, and whether to stay.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReadLogs {
    source: LogSource,
    follow: bool,
    since_unix_ms: Option<u64>,
    tail: Option<u64>,
}

/// Reads a VM's log
#[utoipa::path(
    get, path = "/v1/vms/{vm}/logs",
    params(
        ("vm" = String, Path, description = "Name, id or unique id prefix"),
        ("source" = Option<LogSource>, Query, description = "Which log; the console's when left out"),
        ("follow" = Option<bool>, Query, description = "Whether to go on until the VM ends"),
        ("since_unix_ms" = Option<u64>, Query, description = "Begin with what was written at this time"),
        ("tail" = Option<u64>, Query, description = "Begin with the last so many lines"),
    ),
    responses(
        (status = 200, description = "The log's bytes, not sanitised", content_type = "application/octet-stream"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn logs(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    Params(asked): Params<ReadLogs>,
) -> Result<Response, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let dir = VmPlace::of(daemon.dirs(), &vm.id).state;
    let name = match asked.source {
        LogSource::Console => CONSOLE_LOG,
        LogSource::Vmm => VMM_LOG,
    };
    let path = dir.join(name);
    let begins = begin::Begin {
        since_unix_ms: asked.since_unix_ms,
        tail: asked.tail,
    };
    let finding = tokio::task::spawn_blocking(move || {
        let position = begins.find(&path)?;
        Ok::<_, begin::BeginError>((path, position))
    });
    let (path, position) = finding
        .await
        .map_err(|error| Refusal::internal("look into a VM's log", &error))?
        .map_err(|error| error.refusal(vm.name().as_str()))?;
    let watch = match asked.follow {
        true => Some(watch(&dir).map_err(|error| Refusal::io("watch a VM's log", &error))?),
        false => None,
    };
    let (parts, queue) = mpsc::channel(QUEUE);
    // Not among the tasks that the daemon waits for: it holds nothing that must be let go of.
    drop(tokio::spawn(send(
        Log::new(path, position),
        vm,
        watch,
        parts,
    )));
    let stream = futures_util::stream::unfold(queue, |mut queue| async {
        let part: io::Result<Bytes> = queue.recv().await?;
        Some((part, queue))
    });
    Ok((
        [(CONTENT_TYPE, "application/octet-stream")],
        Body::from_stream(stream),
    )
        .into_response())
}

type Parts = mpsc::Sender<io::Result<Bytes>>;

async fn send(mut log: Log, vm: VmHandle, watch: Option<Watch>, parts: Parts) {
    let mut truth = vm.truth.clone();
    loop {
        // Asked before reading: what is written up to the end is then read below.
        let is_over = watch.is_none() || !is_active(&truth.borrow());
        loop {
            // One part at a time: a client that does not read must not hold a thread.
            let read = tokio::task::spawn_blocking(move || {
                let read = log.next_part();
                (log, read)
            });
            let Ok((back, read)) = read.await else { return };
            log = back;
            let part = match read {
                Ok(Some(part)) => Ok(part),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let is_last = part.is_err();
            if parts.send(part).await.is_err() || is_last {
                return;
            }
        }
        let Some(watch) = watch.as_ref().filter(|_| !is_over) else {
            return;
        };
        tokio::select! {
            () = parts.closed() => return,
            changed = changed(watch) => if changed.is_err() { return },
            _ended = truth.wait_for(|now| !is_active(now)) => {}
        }
    }
}

fn is_active(now: &Snapshot) -> bool {
    let state = now.record.state;
    matches!(
        state,
        VmState::Starting | VmState::Running | VmState::Stopping
    )
}

/// Watches what happens to the files of a directory.
fn watch(dir: &Path) -> io::Result<Watch> {
    use inotify::{CreateFlags, WatchFlags};
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    inotify::add_watch(&fd, dir, what)?;
    // An inotify descriptor is read like a pipe; tokio's AsyncFd can be made only by unsafe code.
    Watch::from_owned_fd_unchecked(fd)
}

/// Waits for events and forgets them: the files themselves tell what changed.
async fn changed(watch: &Watch) -> io::Result<()> {
    watch.readable().await?;
    let mut events = [0; 4096];
    loop {
        match watch.try_read(&mut events) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A log that is read from a position on: first the file that was put aside, then the current one.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    current: Option<File>,
    begins: Option<Position>,
}

impl Log {
    fn new(path: PathBuf, begins: Position) -> Self {
        Self {
            path,
            current: None,
            begins: Some(begins),
        }
    }

    /// The next part of what is there; `None` at the end of it.
    fn next_part(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(begins) = self.begins.take() {
            self.current = begins.open(&self.path)?;
        }
        loop {
            if let Some(current) = &mut self.current
                && let Some(part) = read(current)?
            {
                return Ok(Some(part));
            }
            let Some(next) = open(&self.path)? else {
                return Ok(None);
            };
            if let Some(current) = &mut self.current {
                if is_same(current, &next)? {
                    return Ok(None);
                }
                // It was put aside: what was written between the two looks comes first.
                if let Some(part) = read(current)? {
                    return Ok(Some(part));
                }
            }
            self.current = Some(next);
        }
    }
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok(one.dev() == other.dev() && one.ino() == other.ino())
}

fn read(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut part = vec![0; PART];
    let count = file.read(&mut part)?;
    part.truncate(count);
    Ok((count > 0).then(|| part.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_read_over_the_moment_it_is_put_aside() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("console.log");
        let aside = temp.path().join("console.log.1");
        std::fs::write(&aside, "a").unwrap();
        std::fs::write(&path, "b").unwrap();
        let read = |log: &mut Log| {
            let mut text = Vec::new();
            while let Some(part) = log.next_part().unwrap() {
                text.extend_from_slice(&part);
            }
            String::from_utf8(text).unwrap()
        };
        let mut log = Log::new(path.clone(), Position::default());
        assert_eq!(read(&mut log), "ab");
        std::fs::write(&path, "bc").unwrap();
        std::fs::rename(&path, &aside).unwrap();
        std::fs::write(&path, "d").unwrap();
        assert_eq!(read(&mut log), "cd");
        assert_eq!(read(&mut log), "");
    }

    #[tokio::test]
    async fn watch_sees_a_write() {
        let temp = tempfile::tempdir().unwrap();
        let watch = watch(temp.path()).unwrap();
        std::fs::write(temp.path().join("console.log"), "x").unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), changed(&watch))
            .await
            .unwrap()
            .unwrap();
    }
}
