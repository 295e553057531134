//! From a stored VM to a started VMM: files first, then the engine.

use super::create::fill_random;
use super::place::VmPlace;
use super::plan::VmPlan;
use super::record::{VmRecord, now_unix_ms};
use super::room;
use super::snapshot;
use crate::daemon::Daemon;
use crate::network::{self, Wired};
use crate::problem::Refusal;
use banger_api::{InitMode, NetworkConfig, NetworkMode, ProblemCode, StorageMode};
use banger_engine::{Cache, Drive, Engine, EngineKind, Machine, MachineSpec};
use banger_guest::boot::{BootConfig, Init, Network, Root};
use banger_images::{Kernel, Store};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kernel modules that a root needs, whatever the engine.
fn root_modules(storage: StorageMode) -> &'static [&'static str] {
    match storage {
        StorageMode::Overlay => &["ext4", "overlay"],
        StorageMode::Snapshot => &["ext4"],
    }
}

/// Random bytes that a guest gets at boot.
const SEED_BYTES: usize = 64;

/// Prepares the VM's files and starts its VMM. Not to be dropped half-way: the driver waits
/// for it, whatever it is asked meanwhile. A failed start leaves no VMM, and of what the helper
/// made only what `record.is_helped` says, which the driver releases.
pub(super) async fn launch(
    daemon: &Arc<Daemon>,
    record: &mut VmRecord,
    place: &VmPlace,
) -> Result<Arc<dyn Machine>, Refusal> {
    let config = daemon.config().await?;
    room::check_disk(daemon, record)?;
    room::check_memory(daemon, record, config.engine.huge_pages).await?;
    let engine = daemon.engine(record.plan.network).await?;
    record.engine_kind = engine.kind();
    let storage = record.plan.storage;
    let snapshots = match storage {
        StorageMode::Overlay => None,
        StorageMode::Snapshot => Some(snapshot::require(daemon, engine.as_ref())?),
    };
    let wired = wire(daemon, record, &config.network).await?;
    let (tap, card) = wired.map(|wired| (wired.tap, wired.network)).unzip();
    let network = engine_network(record.plan.network);
    let work = Preparation {
        images: daemon.images().clone(),
        agent: daemon.agent()?,
        modules: [&engine.guest_modules(network), root_modules(storage)].concat(),
        boot: boot_config(engine.as_ref(), &record.plan, card)?,
        plan: record.plan.clone(),
        place: place.clone(),
        has_disk: record.has_disk,
    };
    let prepared = tokio::task::spawn_blocking(move || work.run()).await;
    let prepared =
        prepared.unwrap_or_else(|error| Err(Refusal::internal("prepare a boot", &error)))?;
    record.has_disk = true;
    if let Some(helper) = snapshots {
        snapshot::attach(helper, record, &prepared.base, place).await?;
    }
    record.engine = Some(engine.describe());
    let mut spec = machine_spec(&record.plan, config.engine.huge_pages, prepared)?;
    spec.tap = tap;
    record.is_helped |= daemon.helper().is_some() && engine.kind() == EngineKind::Firecracker;
    let place = place.for_engine(config.daemon.log_cap, daemon.jail(record));
    let machine = engine.start(&spec, &place).await?;
    Ok(Arc::from(machine))
}

/// Makes the card of a VM on the host's bridge.
async fn wire(
    daemon: &Arc<Daemon>,
    record: &mut VmRecord,
    config: &NetworkConfig,
) -> Result<Option<Wired>, Refusal> {
    if record.plan.network != NetworkMode::Nat {
        return Ok(None);
    }
    let (Some(helper), Some(vm)) = (daemon.helper(), record.last_start()) else {
        return Err(network::needs_helper());
    };
    let address = match record.address {
        Some(address) if config.subnet.has_guest(address) => address,
        // The subnet was changed since.
        _ => {
            let database = daemon.database();
            database.readdress(record, config.subnet).await?;
            record.address.ok_or_else(network::needs_helper)?
        }
    };
    let bridge = daemon.bridge();
    let was_known = bridge.ensure(daemon, helper, config).await?;
    // Known before it is true. It is not stored yet: what a daemon that dies here leaves is in
    // the helper's own ledger, and reclaimed by the next.
    record.is_helped = true;
    let wired = bridge.wire(daemon, helper, config, &vm, address, was_known);
    Ok(Some(wired.await?))
}

/// What a boot needs of the disk.
struct Preparation {
    images: Store,
    agent: PathBuf,
    modules: Vec<&'static str>,
    boot: BootConfig,
    plan: VmPlan,
    place: VmPlace,
    has_disk: bool,
}

/// The files of a boot.
struct Prepared {
    kernel: PathBuf,
    initrd: PathBuf,
    base: PathBuf,
    disk: PathBuf,
}

impl Preparation {
    fn run(self) -> Result<Prepared, Refusal> {
        let kernel = self.kernel()?;
        let image = self.images.image(self.plan.image_digest.as_str())?;
        let shared = self.images.initramfs(&self.agent, &kernel, &self.modules)?;
        self.place
            .make_run()
            .map_err(|error| Refusal::io("make the VM's run directory", &error))?;
        let boot = serde_json::to_vec(&self.boot)
            .map_err(|error| Refusal::internal("write the boot configuration", &error))?;
        let initrd = self.place.initrd();
        remove_old(&initrd)?;
        banger_images::boot_initramfs(&shared, &boot, &initrd)?;
        let disk = match self.plan.storage {
            StorageMode::Overlay => self.place.disk(),
            StorageMode::Snapshot => self.place.store(),
        };
        self.disk(&disk)?;
        Ok(Prepared {
            kernel: kernel.vmlinux(),
            initrd,
            base: image.path(),
            disk,
        })
    }

    /// The kernel that the VM was made with; by content, since names may be given anew.
    fn kernel(&self) -> Result<Kernel, Refusal> {
        let wanted = &self.plan.kernel_digest;
        let kernels = self.images.kernels()?;
        kernels
            .into_iter()
            .find(|kernel| kernel.digest == *wanted)
            .ok_or_else(|| {
                Refusal::new(
                    ProblemCode::NotFound,
                    format!("find kernel {}: it was removed", self.plan.kernel),
                )
                .hint("banger kernel pull")
            })
    }

    /// Makes the writable disk at the first start; a later start must find it.
    fn disk(&self, disk: &Path) -> Result<(), Refusal> {
        if self.has_disk {
            return match std::fs::symlink_metadata(disk) {
                Ok(meta) if meta.is_file() => Ok(()),
                Ok(_) => Err(Refusal::new(
                    ProblemCode::Internal,
                    format!("use the disk {disk:?}: it is not a regular file"),
                )),
                Err(error) => Err(Refusal::io(format!("find the disk {disk:?}"), &error)),
            };
        }
        remove_old(disk)?;
        match self.plan.storage {
            StorageMode::Overlay => self.images.overlay_disk(disk, self.plan.disk)?,
            StorageMode::Snapshot => snapshot::make_store(disk, self.plan.disk)?,
        }
        if !self.plan.ephemeral {
            // It must be whole before it is acknowledged, whatever happens to the host.
            let synced = std::fs::File::open(disk).and_then(|file| file.sync_all());
            synced.map_err(|error| Refusal::io(format!("write {disk:?} through"), &error))?;
        }
        Ok(())
    }
}

/// Removes what a start that failed has left.
fn remove_old(path: &Path) -> Result<(), Refusal> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Refusal::io(format!("replace {path:?}"), &error))
        }
        _ => Ok(()),
    }
}

fn boot_config(
    engine: &dyn Engine,
    plan: &VmPlan,
    card: Option<Network>,
) -> Result<BootConfig, Refusal> {
    let mut seed = [0; SEED_BYTES];
    fill_random(&mut seed)?;
    let mut hex = String::with_capacity(SEED_BYTES * 2);
    for byte in seed {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
    }
    Ok(BootConfig {
        channel: engine.channel(),
        root: match plan.storage {
            StorageMode::Overlay => Root::Overlay {
                base: engine.drive_device(0),
                upper: engine.drive_device(1),
            },
            StorageMode::Snapshot => Root::Disk {
                device: engine.drive_device(0),
            },
        },
        init: match plan.init {
            InitMode::Agent => Init::Agent,
            InitMode::Systemd => Init::Image,
        },
        hostname: plan.name.as_str().to_owned(),
        network: card.or_else(|| engine.guest_network(engine_network(plan.network))),
        seed: hex,
        clock_unix_ms: now_unix_ms(),
    })
}

fn machine_spec(plan: &VmPlan, huge_pages: bool, files: Prepared) -> Result<MachineSpec, Refusal> {
    let mem_mib = u32::try_from(plan.memory.as_mib())
        .map_err(|_| Refusal::invalid("start a VM: its memory is out of range"))?;
    let cache = if plan.ephemeral {
        Cache::Unsafe
    } else {
        Cache::Writeback
    };
    let (drives, jail_root) = match plan.storage {
        StorageMode::Overlay => (overlay_drives(files.base, files.disk, cache), None),
        StorageMode::Snapshot => (Vec::new(), Some(cache)),
    };
    Ok(MachineSpec {
        cpus: plan.cpus,
        mem_mib,
        huge_pages,
        kernel: files.kernel,
        initrd: files.initrd,
        cmdline_extra: String::new(),
        drives,
        jail_root,
        network: engine_network(plan.network),
        tap: None,
    })
}

fn overlay_drives(base: PathBuf, disk: PathBuf, cache: Cache) -> Vec<Drive> {
    vec![
        Drive {
            path: base,
            read_only: true,
            cache: Cache::Unsafe,
        },
        Drive {
            path: disk,
            read_only: false,
            cache,
        },
    ]
}

fn engine_network(mode: NetworkMode) -> banger_engine::NetworkMode {
    match mode {
        NetworkMode::Nat => banger_engine::NetworkMode::Nat,
        NetworkMode::User => banger_engine::NetworkMode::User,
        NetworkMode::None => banger_engine::NetworkMode::None,
    }
}
