//! `run`: a VM that lives as long as the stream it was asked for on.
//!
//! Whatever ends the stream (the client leaves at any moment, the VM dies, a step fails, the
//! daemon ends), the VM is killed and removed before the connection closes: a client that
//! reads to the end knows that nothing is left.

use super::body::JsonBody;
use super::upgrade::Upgrade;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::provision::Report;
use crate::relay::client_end::ClientEnd;
use crate::relay::{GuestEnd, Relayed};
use crate::vm::create;
use crate::vm::handle::VmHandle;
use crate::vm::lease::VmLease;
use crate::vm::plan::VmDraft;
use crate::vm::view;
use axum::extract::State;
use axum::response::Response;
use banger_api::stream::StreamEvent;
use banger_api::{Problem, Progress, RunVm};
use banger_guest::request::{CopyIn, Exec, Exit, Request};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events that wait for a client that reads slowly.
const QUEUE: usize = 32;

/// Makes a VM, boots it, runs one command in it and removes it
#[utoipa::path(
    post, path = "/v1/run", request_body = RunVm,
    responses(
        (status = 101, description = "A stream of frames: progress, `booted`, `open`, the command's output, its exit. The VM's life is the stream's."),
        (status = "default", description = "Why not", body = banger_api::ProblemBody),
    )
)]
pub(crate) async fn run(
    State(daemon): State<Arc<Daemon>>,
    upgrade: Upgrade,
    JsonBody(asked): JsonBody<RunVm>,
) -> Result<Response, Refusal> {
    if let Some(dir) = &asked.workspace
        && !dir.starts_with('/')
    {
        return Err(Refusal::invalid(format!(
            "unpack the workspace into {dir:?}: that is not an absolute path"
        )));
    }
    let draft = create::draft(&daemon, &asked.vm, true).await?;
    let task = Arc::clone(&daemon);
    Ok(upgrade.respond(&daemon, |client| serve(task, client, asked, draft)))
}

/// How a run ended.
enum Ended {
    Exit(Exit),
    ClientGone,
}

/// The run as far as it has come; what has been made is in it.
struct Run {
    daemon: Arc<Daemon>,
    lease: Option<VmLease>,
}

async fn serve(daemon: Arc<Daemon>, mut client: ClientEnd, asked: RunVm, draft: VmDraft) {
    let closing = daemon.closing().clone();
    let mut run = Run {
        daemon,
        lease: None,
    };
    let ended = tokio::select! {
        ended = run.go(&mut client, asked, draft) => ended,
        () = closing.cancelled() => Err(Refusal::cancelled("run a VM: the daemon ends")),
    };
    // At once: a client that does not listen must not keep the VM.
    let (told, removed) = tokio::join!(tell(&mut client, ended), async {
        match run.lease.take() {
            Some(lease) => lease.end().await,
            None => Ok(()),
        }
    });
    if let Err(error) = told {
        tracing::debug!(%error, "a client left before the end of its run");
    }
    if let Err(refusal) = removed {
        tracing::error!(%refusal, "remove the VM of a run");
    }
    client.close().await;
}

async fn tell(client: &mut ClientEnd, ended: Result<Ended, Refusal>) -> std::io::Result<()> {
    match ended {
        Ok(Ended::Exit(exit)) => client.exit(&exit).await,
        Ok(Ended::ClientGone) => Ok(()),
        Err(refusal) => {
            tracing::info!(problem = ?refusal.0, "a run failed");
            client.problem(&refusal).await
        }
    }
}

impl Run {
    async fn go(
        &mut self,
        client: &mut ClientEnd,
        asked: RunVm,
        draft: VmDraft,
    ) -> Result<Ended, Refusal> {
        let Some(vm) = self.boot(client, draft).await? else {
            return Ok(Ended::ClientGone);
        };
        let booted = StreamEvent::Booted(Box::new(view::view(&self.daemon, &vm).await));
        if client.event(&booted).await.is_err() {
            return Ok(Ended::ClientGone);
        }
        if let Some(dir) = asked.workspace
            && let Some(gone) = receive_workspace(client, &vm, dir).await?
        {
            return Ok(gone);
        }
        let ended = execute(client, &vm, asked.exec).await;
        // The end of the VM's time looks like a signal to the command, or like a VM that is gone.
        match ended {
            Ok(Ended::ClientGone) => Ok(Ended::ClientGone),
            ended if !vm.is_expired() => ended,
            Ok(Ended::Exit(exit)) => Ok(Ended::Exit(Exit {
                timed_out: true,
                ..exit
            })),
            Err(_) => Ok(Ended::Exit(Exit {
                signal: Some("KILL".into()),
                timed_out: true,
                ..Exit::default()
            })),
        }
    }

    /// Makes and boots the VM; `None` when the client leaves first.
    async fn boot(
        &mut self,
        client: &mut ClientEnd,
        draft: VmDraft,
    ) -> Result<Option<VmHandle>, Refusal> {
        let (tell, mut events) = mpsc::channel(QUEUE);
        let report: Report = Arc::new(move |progress| {
            // A client that reads slowly misses progress, nothing else.
            let _told = tell.try_send(StreamEvent::Progress(progress));
        });
        let choosing = create::choose(&self.daemon, &draft, &report);
        let Some(contents) = client.while_there(&mut events, choosing).await else {
            return Ok(None);
        };
        // Not cut short by the client: what is made must be in the lease, to be gone at the end.
        let lease = create::make(&self.daemon, draft, contents?).await?;
        let vm = self.lease.insert(lease).vm().clone();
        report(Progress {
            step: "boot".into(),
            detail: vm.name().as_str().to_owned(),
            ..Progress::default()
        });
        match client.while_there(&mut events, vm.start()).await {
            Some(started) => started.map(|()| Some(vm)),
            None => Ok(None),
        }
    }
}

/// Unpacks what the client sends below `dir`; gives an end if the client leaves.
async fn receive_workspace(
    client: &mut ClientEnd,
    vm: &VmHandle,
    dir: String,
) -> Result<Option<Ended>, Refusal> {
    let request = Request::CopyIn(CopyIn {
        dir,
        create: true,
        owner: String::new(),
    });
    let Some(guest) = while_there(client, GuestEnd::open(vm, &request)).await else {
        return Ok(Some(Ended::ClientGone));
    };
    match guest?.relay(client, true).await? {
        Relayed::Exit(Exit { code: Some(0), .. }) => Ok(None),
        Relayed::Exit(exit) => Err(Refusal(Problem::new(
            banger_api::ProblemCode::Internal,
            format!(
                "unpack the workspace: the agent ended with {}",
                exit.shell_code()
            ),
        ))),
        Relayed::Closed | Relayed::ClientGone => Ok(Some(Ended::ClientGone)),
    }
}

async fn execute(client: &mut ClientEnd, vm: &VmHandle, exec: Exec) -> Result<Ended, Refusal> {
    let request = Request::Exec(exec);
    let Some(guest) = while_there(client, GuestEnd::open(vm, &request)).await else {
        return Ok(Ended::ClientGone);
    };
    let guest = guest?;
    if client.event(&StreamEvent::Open).await.is_err() {
        return Ok(Ended::ClientGone);
    }
    match guest.relay(client, false).await? {
        Relayed::Exit(exit) => Ok(Ended::Exit(exit)),
        Relayed::Closed | Relayed::ClientGone => Ok(Ended::ClientGone),
    }
}

/// Waits for `work`; `None` when the client leaves first.
pub(super) async fn while_there<T>(
    client: &mut ClientEnd,
    work: impl Future<Output = T>,
) -> Option<T> {
    let (_tell, mut events) = mpsc::channel(1);
    client.while_there(&mut events, work).await
}
