//! A VM as shown to a client.

use super::handle::VmHandle;
use super::moment::Moment;
use super::place::VmPlace;
use super::policy;
use super::record::now_unix_ms;
use crate::daemon::Daemon;
use banger_api::VmView;
use banger_names::ByteSize;
use std::time::Duration;

/// The VM as it is now.
pub(crate) async fn view(daemon: &Daemon, vm: &VmHandle) -> VmView {
    let place = VmPlace::of(daemon.dirs(), &vm.id);
    let disk_used = tokio::task::spawn_blocking(move || place.disk_used()).await;
    view_with(vm, disk_used.unwrap_or(ByteSize(0)))
}

/// The VM as it is now, with what its disk takes.
pub(crate) fn view_with(vm: &VmHandle, disk_used: ByteSize) -> VmView {
    let now = vm.now();
    let record = &now.record;
    let plan = &record.plan;
    let moment = Moment::now();
    let at = |left: Duration| {
        now_unix_ms().saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    };
    VmView {
        id: record.id.clone(),
        name: plan.name.clone(),
        state: record.state,
        hung: now.hung(),
        image: plan.image.clone(),
        image_digest: plan.image_digest.clone(),
        kernel: plan.kernel.as_str().to_owned(),
        cpus: plan.cpus,
        memory: plan.memory,
        disk: plan.disk,
        disk_used,
        storage: plan.storage,
        root_size: plan.root_size,
        network: plan.network,
        address: record.address,
        init: plan.init,
        ephemeral: plan.ephemeral,
        needs_restart: record.needs_restart(),
        labels: plan.labels.clone(),
        engine: record.engine.clone(),
        pid: record
            .process
            .as_ref()
            .and_then(|process| u32::try_from(process.pid).ok()),
        created_unix_ms: record.created_unix_ms,
        started_unix_ms: record.started_unix_ms,
        boot_ms: record.boot_ms,
        exit: record.exit.clone(),
        restart: plan.restart,
        restarts: record.restarts,
        restarts_unix_ms: record.retry.as_ref().map(|retry| at(retry.left(&moment))),
        ttl_ms: plan.ttl_ms,
        expires_unix_ms: policy::time_left(record, &moment)
            .filter(|_| record.process.is_some())
            .map(at),
    }
}
