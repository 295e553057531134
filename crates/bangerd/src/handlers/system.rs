//! The daemon itself and its host.

use crate::daemon::Daemon;
use crate::disk_use;
use crate::host;
use crate::problem::Refusal;
use crate::reconcile;
use crate::routes;
use crate::vm::create;
use crate::vm::plan::MAX_CPUS;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::{
    Config, DirectoriesView, DiskUseView, HostSizeView, HostView, InfoView, LimitsView,
    ProblemBody, TidyView, VersionView,
};
use banger_names::ByteSize;
use std::path::Path;
use std::sync::Arc;

/// Shows the daemon's version
#[utoipa::path(get, path = "/v1/version", responses((status = 200, body = VersionView)))]
pub(crate) async fn version(State(daemon): State<Arc<Daemon>>) -> Json<VersionView> {
    Json(VersionView {
        version: env!("CARGO_PKG_VERSION").into(),
        api: "1".into(),
        pid: std::process::id(),
        started_unix_ms: daemon.started_unix_ms(),
    })
}

/// Shows what the daemon found on its host
#[utoipa::path(get, path = "/v1/host", responses((status = 200, body = HostView)))]
pub(crate) async fn host(State(daemon): State<Arc<Daemon>>) -> Json<HostView> {
    Json(host::look(&daemon).await)
}

/// Tells what banger takes on the host's disks
#[utoipa::path(get, path = "/v1/df", responses((status = 200, body = Vec<DiskUseView>), (status = "default", body = ProblemBody)))]
pub(crate) async fn df(
    State(daemon): State<Arc<Daemon>>,
) -> Result<Json<Vec<DiskUseView>>, Refusal> {
    disk_use::look(&daemon).await.map(Json)
}

/// Tells where the daemon is, what it has and what limits VMs
#[utoipa::path(get, path = "/v1/info", responses((status = 200, body = InfoView), (status = "default", body = ProblemBody)))]
pub(crate) async fn info(State(daemon): State<Arc<Daemon>>) -> Result<Json<InfoView>, Refusal> {
    let facts = create::host_facts(&daemon).await?;
    let config = daemon.config().await?;
    let engine = daemon
        .engine(config.vm.network.unwrap_or(facts.network))
        .await;
    let dirs = daemon.dirs();
    let text = |path: &Path| path.display().to_string();
    let vms = daemon.vms().all();
    let running: Vec<_> = vms
        .iter()
        .map(|vm| vm.now().record)
        .filter(|record| record.process.is_some())
        .collect();
    let limits = daemon.limits();
    Ok(Json(InfoView {
        version: env!("CARGO_PKG_VERSION").into(),
        mode: host::mode(&daemon).into(),
        engine: engine.ok().map(|engine| engine.describe()),
        host: HostSizeView {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: facts.memory,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            disk_free: facts.disk_free,
        },
        directories: DirectoriesView {
            runtime: text(&dirs.runtime),
            state: text(&dirs.state),
            data: text(&dirs.data),
            cache: text(&dirs.cache),
            config: text(&dirs.config),
        },
        limits: LimitsView {
            cpus: MAX_CPUS,
            memory_given: ByteSize(running.iter().map(|record| record.plan.memory.0).sum()),
            disk_reserve: limits.reserve,
            log_cap: config.daemon.log_cap,
            boot_ms: u64::try_from(limits.boot.as_millis()).unwrap_or(u64::MAX),
        },
        vms: vms.len() as u64,
        vms_running: running.len() as u64,
    }))
}

/// Shows the configuration in force
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = Config), (status = "default", body = ProblemBody)))]
pub(crate) async fn config(State(daemon): State<Arc<Daemon>>) -> Result<Json<Config>, Refusal> {
    Ok(Json(daemon.config().await?))
}

/// Removes what belongs to no VM
#[utoipa::path(post, path = "/v1/tidy", responses((status = 200, body = TidyView), (status = "default", body = ProblemBody)))]
pub(crate) async fn tidy(State(daemon): State<Arc<Daemon>>) -> Json<TidyView> {
    let (removed, left) = reconcile::tidy(&daemon).await;
    Json(TidyView { removed, left })
}

/// Describes this API
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "An OpenAPI document", content_type = "application/json")))]
pub(crate) async fn openapi() -> Result<Response, Refusal> {
    let text = routes::document()
        .to_json()
        .map_err(|error| Refusal::internal("write the OpenAPI document", &error))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}
