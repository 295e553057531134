//! Making a VM: a plan, a row, a directory, a driver.

use super::driver::Driver;
use super::handle::VmHandle;
use super::lease::VmLease;
use super::place::VmPlace;
use super::plan::{self, HostFacts, ImageFacts, VmDraft};
use super::record::VmRecord;
use super::snapshot;
use crate::daemon::{Daemon, Role};
use crate::problem::Refusal;
use crate::provision::{self, Report};
use crate::store::StoreError;
use banger_api::{EventKind, NetworkMode, VmSpec};
use banger_images::{Image, Kernel};
use banger_names::{ByteSize, VmId};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::OwnedRwLockReadGuard;

/// How often another id is drawn when one is taken.
const ID_TRIES: usize = 8;

/// Decides what `spec` means on this host, now. Refuses a name that is taken, though only
/// the database decides that for good.
pub(crate) async fn draft(
    daemon: &Daemon,
    spec: &VmSpec,
    ephemeral: bool,
) -> Result<VmDraft, Refusal> {
    if daemon.role() == Role::Builder {
        return Err(Refusal::invalid(
            "make a VM: this daemon is a builder, it only makes kernels and images",
        ));
    }
    let config = daemon.config().await?;
    let facts = host_facts(daemon).await?;
    let draft = plan::draft(spec, &config, &facts, ephemeral)?;
    if let Some(name) = &draft.name
        && daemon.vms().all().iter().any(|vm| vm.name() == *name)
    {
        return Err(StoreError::Taken {
            what: "name",
            text: name.as_str().to_owned(),
        }
        .into());
    }
    snapshot::check_engine(daemon, draft.storage, draft.network).await?;
    provision::require(daemon, &draft).await?;
    Ok(draft)
}

/// What a VM will be made of. While it is held, nobody removes it from the store.
pub(crate) struct Contents {
    kernel: Kernel,
    image: Image,
    in_use: OwnedRwLockReadGuard<()>,
}

/// Makes the VM, providing image and kernel first. Dropping the future undoes it, as does
/// dropping the lease.
pub(crate) async fn create(
    daemon: &Arc<Daemon>,
    draft: VmDraft,
    report: &Report,
) -> Result<VmLease, Refusal> {
    let contents = choose(daemon, &draft, report).await?;
    make(daemon, draft, contents).await
}

/// Finds image and kernel, providing them first. May take long; dropping the future ends it.
pub(crate) async fn choose(
    daemon: &Arc<Daemon>,
    draft: &VmDraft,
    report: &Report,
) -> Result<Contents, Refusal> {
    loop {
        provision::provide(daemon, draft, report).await?;
        let in_use = daemon.contents().read_owned().await;
        // None: removed in between.
        if let Some((kernel, image)) = provision::look_up(daemon, draft).await? {
            return Ok(Contents {
                kernel,
                image,
                in_use,
            });
        }
    }
}

/// Makes the VM, which takes a moment. If the future is dropped it is made all the same and
/// then undone, and nobody learns when: who must know waits.
pub(crate) async fn make(
    daemon: &Arc<Daemon>,
    draft: VmDraft,
    contents: Contents,
) -> Result<VmLease, Refusal> {
    let owner = Arc::clone(daemon);
    // One of the tasks that the daemon waits for: it completes even if nobody else waits.
    let made = daemon.tasks().spawn(async move {
        let vm = insert(&owner, draft, &contents.kernel, &contents.image).await?;
        drop(contents.in_use);
        let lease = VmLease::new(vm);
        // Asked after the VM is known to the daemon: one of the two sees the other.
        if owner.closing().is_cancelled() {
            lease.end().await?;
            return Err(Refusal::cancelled("make a VM: the daemon ends"));
        }
        Ok(lease)
    });
    made.await
        .unwrap_or_else(|error| Err(Refusal::internal("make a VM", &error)))
}

async fn insert(
    daemon: &Arc<Daemon>,
    draft: VmDraft,
    kernel: &Kernel,
    image: &Image,
) -> Result<VmHandle, Refusal> {
    let subnet = daemon.config().await?.network.subnet;
    for _ in 0..ID_TRIES {
        let id = draw_id()?;
        let plan = draft.clone().resolve(
            &id,
            ImageFacts {
                digest: image.digest.clone(),
                size: ByteSize(image.size),
            },
            kernel.name.clone(),
            kernel.digest.clone(),
        )?;
        let subnet = (plan.network == NetworkMode::Nat).then_some(subnet);
        let mut record = VmRecord::new(id.clone(), plan);
        match daemon.database().insert(&mut record, subnet).await {
            Ok(()) => {}
            Err(StoreError::Taken { what: "id", .. }) => continue,
            Err(error) => return Err(error.into()),
        }
        let place = VmPlace::of(daemon.dirs(), &id);
        let (database, stored) = (daemon.database().clone(), record.clone());
        let made = tokio::task::spawn_blocking(move || {
            place.make_state()?;
            database.keep_copy(&stored);
            Ok(())
        });
        let made = made.await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = made {
            let mut refusal = Refusal::io("make the VM's directory", &error);
            if let Err(undo) = daemon.database().delete(&id).await {
                refusal.0.causes.push(format!("and its row stays: {undo}"));
            }
            return Err(refusal);
        }
        daemon.events().tell(EventKind::Created, &record, None);
        let vm = Driver::spawn(daemon, record, None);
        daemon.vms().add(vm.clone());
        return Ok(vm);
    }
    Err(Refusal::conflict(
        "draw an id for a VM: all that were drawn are taken",
    ))
}

fn draw_id() -> Result<VmId, Refusal> {
    let mut bytes = [0; 4];
    fill_random(&mut bytes)?;
    Ok(VmId::from_bits(u32::from_be_bytes(bytes)))
}

/// Fills `bytes` from the kernel's random source.
pub(super) fn fill_random(bytes: &mut [u8]) -> Result<(), Refusal> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let count = rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Refusal::io("draw random bytes", &errno.into()))?;
        filled += count;
    }
    Ok(())
}

/// Looks at the host.
pub(crate) async fn host_facts(daemon: &Daemon) -> Result<HostFacts, Refusal> {
    let info = rustix::system::sysinfo();
    let memory = info
        .totalram
        .saturating_mul(u64::from(info.mem_unit.max(1)));
    Ok(HostFacts {
        memory: ByteSize(memory),
        disk_free: disk_free(&daemon.dirs().state)?,
        reserve: daemon.limits().reserve,
        has_helper: daemon.helper().is_some(),
        network: daemon.best_network().await,
    })
}

/// What is free to this user on the file system of `path`.
pub(crate) fn disk_free(path: &Path) -> Result<ByteSize, Refusal> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|errno| Refusal::io(format!("look at the disk of {path:?}"), &errno.into()))?;
    Ok(ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize)))
}
