//! VMs: made, looked at, started, stopped, removed.

use super::body::{JsonBody, Params, Word};
use super::steps::{self, Done};
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::ssh;
use crate::vm::create;
use crate::vm::handle::VmHandle;
use crate::vm::plan::VmChange;
use crate::vm::view::view;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use banger_api::{
    CreateVm, ProblemBody, ProblemCode, Progress, RemoveVm, RenameVm, SetVm, SshView, StartVm,
    Step, StopVm, VmState, VmView,
};
use banger_names::format_duration;
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
            if let Err(refusal) = start_within(lease.vm(), asked.timeout_ms).await {
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
    post, path = "/v1/vms/{vm}/start", request_body = StartVm,
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses(
        (status = 200, description = "Lines of JSON, the last with the VM", body = Step, content_type = "application/x-ndjson"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn start(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    JsonBody(asked): JsonBody<Option<StartVm>>,
) -> Result<Response, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let limit_ms = asked.and_then(|asked| asked.timeout_ms);
    let task = Arc::clone(&daemon);
    Ok(steps::respond(&daemon, move |report| async move {
        if vm.state() != VmState::Running {
            report(boot_progress(&vm));
        }
        start_within(&vm, limit_ms).await?;
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

/// Boots a VM, and undoes that when the time is over, unless somebody else waits for it too.
async fn start_within(vm: &VmHandle, limit_ms: Option<u64>) -> Result<(), Refusal> {
    let Some(ms) = limit_ms else {
        return vm.start().await;
    };
    let limit = Duration::from_millis(ms);
    let started = tokio::time::timeout(limit, vm.start()).await;
    started.unwrap_or_else(|_| {
        let (name, limit) = (vm.name(), format_duration(limit));
        Err(Refusal::new(
            ProblemCode::TimedOut,
            format!(
                "start VM {:?}: it does not run after {limit}",
                name.as_str()
            ),
        )
        .hint(format!(
            "give it more time with --timeout, or see why: banger vm logs {name}"
        )))
    })
}

fn boot_progress(vm: &VmHandle) -> Progress {
    Progress {
        step: "boot".into(),
        detail: vm.name().as_str().to_owned(),
        ..Progress::default()
    }
}
