//! Streams to a VM that runs: commands, copies, connections.

use super::body::{JsonBody, Word};
use super::run::while_there;
use super::upgrade::Upgrade;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::relay::client_end::ClientEnd;
use crate::relay::{GuestEnd, Relayed};
use crate::ssh;
use crate::vm::handle::VmHandle;
use axum::extract::State;
use axum::response::Response;
use banger_api::stream::StreamEvent;
use banger_guest::request::{CopyIn, CopyOut, Dial, Exec, Request};
use std::sync::Arc;

/// Runs a command in a VM
#[utoipa::path(
    post, path = "/v1/vms/{vm}/exec",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    request_body(content = Object, description = "banger_guest::request::Exec"),
    responses(
        (status = 101, description = "A stream of frames: `open`, then output and exit; takes input, resizes and signals"),
        (status = "default", description = "Why not", body = banger_api::ProblemBody),
    )
)]
pub(crate) async fn exec(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    upgrade: Upgrade,
    JsonBody(exec): JsonBody<Exec>,
) -> Result<Response, Refusal> {
    open(&daemon, &vm, upgrade, Request::Exec(exec))
}

/// Unpacks a tar stream in a VM
#[utoipa::path(
    post, path = "/v1/vms/{vm}/copy-in",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    request_body(content = Object, description = "banger_guest::request::CopyIn"),
    responses(
        (status = 101, description = "A stream of frames: `open`; takes a tar as data, an empty one last; an exit when all is written"),
        (status = "default", description = "Why not", body = banger_api::ProblemBody),
    )
)]
pub(crate) async fn copy_in(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    upgrade: Upgrade,
    JsonBody(copy): JsonBody<CopyIn>,
) -> Result<Response, Refusal> {
    open(&daemon, &vm, upgrade, Request::CopyIn(copy))
}

/// Packs a file or directory of a VM
#[utoipa::path(
    post, path = "/v1/vms/{vm}/copy-out",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    request_body(content = Object, description = "banger_guest::request::CopyOut"),
    responses(
        (status = 101, description = "A stream of frames: `open`, a tar as data, an empty one last, an exit"),
        (status = "default", description = "Why not", body = banger_api::ProblemBody),
    )
)]
pub(crate) async fn copy_out(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    upgrade: Upgrade,
    JsonBody(copy): JsonBody<CopyOut>,
) -> Result<Response, Refusal> {
    open(&daemon, &vm, upgrade, Request::CopyOut(copy))
}

/// Joins a TCP port on a VM's loopback
#[utoipa::path(
    post, path = "/v1/vms/{vm}/dial",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    request_body(content = Object, description = "banger_guest::request::Dial"),
    responses(
        (status = 101, description = "A stream of frames: `open`, then data both ways"),
        (status = "default", description = "Why not", body = banger_api::ProblemBody),
    )
)]
pub(crate) async fn dial(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    upgrade: Upgrade,
    JsonBody(dial): JsonBody<Dial>,
) -> Result<Response, Refusal> {
    open(&daemon, &vm, upgrade, Request::Dial(dial))
}

/// Opens one ssh connection to a VM
#[utoipa::path(
    post, path = "/v1/vms/{vm}/ssh",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses(
        (status = 101, description = "A stream of frames: `open`, then data both ways: the ssh protocol, the guest's side being the VM's pinned host key"),
        (status = "default", description = "Why not", body = banger_api::ProblemBody),
    )
)]
pub(crate) async fn ssh(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    upgrade: Upgrade,
) -> Result<Response, Refusal> {
    let handle = daemon.vms().find(&vm)?;
    handle.running()?;
    let request = ssh::request(&daemon, &handle).await?;
    open(&daemon, &vm, upgrade, Request::Ssh(request))
}

fn open(
    daemon: &Arc<Daemon>,
    vm: &str,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    let vm = daemon.vms().find(vm)?;
    vm.running()?;
    let closing = daemon.closing().clone();
    Ok(upgrade.respond(daemon, |mut client| async move {
        let relayed = tokio::select! {
            relayed = relay(&mut client, &vm, &request) => relayed,
            () = closing.cancelled() => Err(Refusal::cancelled("use a VM: the daemon ends")),
        };
        let told = match relayed {
            Ok(Relayed::Exit(exit)) => client.exit(&exit).await,
            Ok(Relayed::Closed | Relayed::ClientGone) => Ok(()),
            Err(refusal) => {
                tracing::info!(vm = %vm.id, problem = ?refusal.0, "a stream failed");
                client.problem(&refusal).await
            }
        };
        if let Err(error) = told {
            tracing::debug!(%error, "a client left before the end of its stream");
        }
        client.close().await;
    }))
}

async fn relay(
    client: &mut ClientEnd,
    vm: &VmHandle,
    request: &Request,
) -> Result<Relayed, Refusal> {
    let Some(guest) = while_there(client, GuestEnd::open(vm, request)).await else {
        return Ok(Relayed::ClientGone);
    };
    let guest = guest?;
    if client.event(&StreamEvent::Open).await.is_err() {
        return Ok(Relayed::ClientGone);
    }
    guest.relay(client, false).await
}
