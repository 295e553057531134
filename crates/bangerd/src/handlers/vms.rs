//! VMs: made, looked at, started, stopped, removed.

use super::body::{JsonBody, Params, Word};
use super::steps::{self, Done};
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::ssh;
use crate::vm::create;
use crate::vm::handle::{Snapshot, VmHandle};
use crate::vm::plan::VmChange;
use crate::vm::view::{view, view_with};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use banger_api::{
    CreateVm, ProblemBody, ProblemCode, Progress, RemoveVm, RenameVm, SetVm, SshView, Step, StopVm,
    VmState, VmView, WaitFor,
};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// How long a guest may take to power off unless the caller says otherwise.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Lists the VMs, the oldest first
#[utoipa::path(get, path = "/v1/vms", responses((status = 200, body = Vec<VmView>)))]
pub(crate) async fn list(State(daemon): State<Arc<Daemon>>) -> Json<Vec<VmView>> {
    let mut views = Vec::new();
    for vm in daemon.vms().all() {
        views.push(view(&daemon, &vm).await);
    }
    Json(views)
}

/// Makes a VM, and starts it if asked
#[utoipa::path(
    post, path = "/v1/vms", request_body = CreateVm,
    responses(
        (status = 200, description = "Lines of JSON, the last with the VM", body = Step, content_type = "application/x-ndjson"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn create(
    State(daemon): State<Arc<Daemon>>,
    JsonBody(asked): JsonBody<CreateVm>,
) -> Result<Response, Refusal> {
    let draft = create::draft(&daemon, &asked.vm, false).await?;
    let task = Arc::clone(&daemon);
    Ok(steps::respond(&daemon, move |report| async move {
        let lease = create::create(&task, draft, &report).await?;
        if asked.start {
            report(boot_progress(lease.vm()));
            if let Err(refusal) = lease.vm().start().await {
                // The VM that was asked for is not there; half of it is of no use.
                if let Err(undo) = lease.end().await {
                    tracing::error!(%undo, "remove a VM that did not start");
                }
                return Err(refusal);
            }
        }
        let shown = view(&task, lease.vm()).await;
        Ok(Done {
            step: Step::Vm(Box::new(shown)),
            keep: Some(lease),
        })
    }))
}

/// Shows a VM
#[utoipa::path(
    get, path = "/v1/vms/{vm}",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn show(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    Ok(Json(view(&daemon, &vm).await))
}

/// Removes a VM and shows it one last time
#[utoipa::path(
    delete, path = "/v1/vms/{vm}",
    params(
        ("vm" = String, Path, description = "Name, id or unique id prefix"),
        ("force" = Option<bool>, Query, description = "Whether a running VM is killed first"),
    ),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn remove(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    Params(asked): Params<RemoveVm>,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let last = view(&daemon, &vm).await;
    vm.remove(asked.force).await?;
    Ok(Json(last))
}

/// Boots a VM; one that runs is done at once
#[utoipa::path(
    post, path = "/v1/vms/{vm}/start",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses(
        (status = 200, description = "Lines of JSON, the last with the VM", body = Step, content_type = "application/x-ndjson"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn start(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
) -> Result<Response, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let task = Arc::clone(&daemon);
    Ok(steps::respond(&daemon, move |report| async move {
        if vm.state() != VmState::Running {
            report(boot_progress(&vm));
        }
        vm.start().await?;
        Ok(Step::Vm(Box::new(view(&task, &vm).await)).into())
    }))
}

/// Powers a VM off, by force when the time is over; `exit.reason` of the answer tells which
#[utoipa::path(
    post, path = "/v1/vms/{vm}/stop", request_body = StopVm,
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn stop(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    JsonBody(asked): JsonBody<StopVm>,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let limit = asked.timeout_ms.map_or(STOP_LIMIT, Duration::from_millis);
    vm.stop(limit).await?;
    Ok(Json(view(&daemon, &vm).await))
}

/// Powers a VM off as `stop` does, if it runs, and boots it
#[utoipa::path(
    post, path = "/v1/vms/{vm}/restart", request_body = StopVm,
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses(
        (status = 200, description = "Lines of JSON, the last with the VM", body = Step, content_type = "application/x-ndjson"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn restart(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    JsonBody(asked): JsonBody<StopVm>,
) -> Result<Response, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let limit = asked.timeout_ms.map_or(STOP_LIMIT, Duration::from_millis);
    let task = Arc::clone(&daemon);
    Ok(steps::respond(&daemon, move |report| async move {
        report(Progress {
            step: "restart".into(),
            ..boot_progress(&vm)
        });
        vm.restart(limit).await?;
        Ok(Step::Vm(Box::new(view(&task, &vm).await)).into())
    }))
}

/// Gives a VM another name; a guest that runs learns it at its next start
#[utoipa::path(
    post, path = "/v1/vms/{vm}/rename", request_body = RenameVm,
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn rename(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    JsonBody(asked): JsonBody<RenameVm>,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    vm.change(VmChange::Rename(asked.name)).await?;
    Ok(Json(view(&daemon, &vm).await))
}

/// Changes a VM; `needs_restart` of the answer tells whether something waits for its next start
#[utoipa::path(
    patch, path = "/v1/vms/{vm}", request_body = SetVm,
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn set(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    JsonBody(asked): JsonBody<SetVm>,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let most_memory = create::host_facts(&daemon).await?.memory;
    vm.change(VmChange::Set { asked, most_memory }).await?;
    Ok(Json(view(&daemon, &vm).await))
}

/// Ends a VM at once
#[utoipa::path(
    post, path = "/v1/vms/{vm}/kill",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn kill(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    vm.kill().await?;
    Ok(Json(view(&daemon, &vm).await))
}

/// What to wait for, and how long.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WaitVm {
    until: WaitFor,
    timeout_ms: Option<u64>,
}

/// Waits until a VM is stopped, running or removed
#[utoipa::path(
    get, path = "/v1/vms/{vm}/wait",
    params(
        ("vm" = String, Path, description = "Name, id or unique id prefix"),
        ("until" = Option<WaitFor>, Query, description = "What to wait for; stopped when left out"),
        ("timeout_ms" = Option<u64>, Query, description = "How long; for ever when left out"),
    ),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn wait(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    Params(asked): Params<WaitVm>,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let mut truth = vm.truth.clone();
    let come = |now: &Snapshot| now.is_removed || is_at(asked.until, now.record.state);
    let waiting = async {
        // The driver's end without a removal is the daemon's.
        truth.wait_for(come).await.map(|now| now.is_removed)
    };
    let waited = match asked.timeout_ms {
        Some(ms) => tokio::time::timeout(Duration::from_millis(ms), waiting).await,
        None => Ok(waiting.await),
    };
    match waited {
        Ok(Ok(true)) if asked.until == WaitFor::Running => Err(vm.gone()),
        Ok(Ok(true)) => Ok(Json(view_with(&vm, banger_names::ByteSize(0)))),
        Ok(Ok(false)) => Ok(Json(view(&daemon, &vm).await)),
        Ok(Err(_)) => Err(Refusal::cancelled("wait for a VM: the daemon ends")),
        Err(_) => Err(Refusal::new(
            ProblemCode::TimedOut,
            format!(
                "wait for VM {:?}: it is still {}",
                vm.name().as_str(),
                vm.state().as_str()
            ),
        )),
    }
}

fn is_at(until: WaitFor, state: VmState) -> bool {
    match until {
        WaitFor::Stopped => matches!(
            state,
            VmState::Created | VmState::Stopped | VmState::Crashed
        ),
        WaitFor::Running => state == VmState::Running,
        WaitFor::Removed => false,
    }
}

/// Makes the keys that an ssh client needs and pins the VM's
#[utoipa::path(
    get, path = "/v1/vms/{vm}/ssh",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses((status = 200, body = SshView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn ssh_view(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
) -> Result<Json<SshView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    Ok(Json(ssh::prepare(&daemon, &vm).await?))
}

fn boot_progress(vm: &VmHandle) -> Progress {
    Progress {
        step: "boot".into(),
        detail: vm.name().as_str().to_owned(),
        ..Progress::default()
    }
}
