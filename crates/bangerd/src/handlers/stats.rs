//! What running VMs use.

use super::body::Word;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::vm::handle::VmHandle;
use crate::vm::stats;
use axum::Json;
use axum::extract::State;
use banger_api::{ProblemBody, StatsView};
use std::sync::Arc;

/// Tells what the VMs that run have used
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = Vec<StatsView>), (status = "default", body = ProblemBody)))]
pub(crate) async fn all(
    State(daemon): State<Arc<Daemon>>,
) -> Result<Json<Vec<StatsView>>, Refusal> {
    let vms = daemon.vms().all();
    read(&daemon, vms).await.map(Json)
}

/// Tells what a VM has used; refused if it does not run
#[utoipa::path(
    get, path = "/v1/vms/{vm}/stats",
    params(("vm" = String, Path, description = "Name, id or unique id prefix")),
    responses((status = 200, body = StatsView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn one(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
) -> Result<Json<StatsView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let found = read(&daemon, vec![vm.clone()]).await?.pop();
    found.map(Json).ok_or_else(|| {
        let (name, state) = (vm.name(), vm.state().as_str());
        Refusal::conflict(format!(
            "tell what VM {:?} uses: it is {state}",
            name.as_str()
        ))
        .hint(format!("banger vm start {name}"))
    })
}

async fn read(daemon: &Arc<Daemon>, vms: Vec<VmHandle>) -> Result<Vec<StatsView>, Refusal> {
    let dirs = daemon.dirs().clone();
    let reading = tokio::task::spawn_blocking(move || {
        vms.iter().filter_map(|vm| stats::read(&dirs, vm)).collect()
    });
    reading
        .await
        .map_err(|error| Refusal::internal("read what VMs use", &error))
}
