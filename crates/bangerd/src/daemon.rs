//! What the daemon has: its directories, database, images, engine and VMs.

use crate::activity::Activity;
use crate::config;
use crate::events::Events;
use crate::network::Bridge;
pub use crate::options::{EngineChoice, HelperChoice, Limits, Options, Role};
use crate::privilege::jail::VmJail;
use crate::privilege::{self, Helper};
use crate::problem::Refusal;
use crate::reconcile;
use crate::shared_job::SharedJobs;
use crate::ssh;
use crate::store::copies::Orphan;
use crate::store::{Condition, Database};
use crate::vm::place::{self, VmPlace};
use crate::vm::record::{VmRecord, now_unix_ms};
use crate::vm::registry::Registry;
use crate::vm::reserve;
use banger_api::{Config, DaemonMode, Dirs, EngineConfig, NetworkMode, ProblemCode, StorageMode};
use banger_engine::{
    Accel, Engine, EngineError, EngineKind, Host, Jail, Machine, Place, ProcessId, Wish,
};
use banger_images::{Image, ImagesError, Kernel, Store};
use banger_names::VmId;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the VMs may take to be let go of when the daemon ends.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

/// How long what else goes on may take then: mostly clients that hear the last word, some of
/// which do not listen.
const PARTING_LIMIT: Duration = Duration::from_secs(2);

/// Looks at what the host has for engines.
pub(crate) async fn look_at_host() -> Result<Host, Refusal> {
    tokio::task::spawn_blocking(Host::look)
        .await
        .map_err(|error| Refusal::internal("look for an engine", &error))
}

/// The helper that a daemon with these options has.
async fn find_helper(options: &Options) -> Result<Option<Helper>, Refusal> {
    if let HelperChoice::Fixed(helper) = &options.helper {
        return Ok(helper.clone());
    }
    let role = options.role;
    let dirs = options.dirs.clone();
    let found = tokio::task::spawn_blocking(move || match role {
        Role::Builder => Ok(None),
        Role::System => privilege::find(DaemonMode::Auto, true, &dirs),
        Role::Own => {
            // A wrong file is told to whoever asks for a VM.
            let config = config::load(&dirs.config).unwrap_or_default();
            privilege::find(config.daemon.mode, false, &dirs)
        }
    });
    found
        .await
        .unwrap_or_else(|error| Err(Refusal::internal("look for the helper", &error)))
}

/// What a VM with this network asks of its engine.
fn wish(config: &EngineConfig, network: NetworkMode, jailed: bool) -> Wish {
    Wish {
        engine: config.prefer.map(|engine| match engine {
            banger_api::EngineName::Qemu => EngineKind::Qemu,
            banger_api::EngineName::Firecracker => EngineKind::Firecracker,
        }),
        accel: config.accel.map(|accel| match accel {
            banger_api::Accel::Kvm => Accel::Kvm,
            banger_api::Accel::Tcg => Accel::Tcg,
        }),
        network: match network {
            NetworkMode::Nat => banger_engine::NetworkMode::Nat,
            NetworkMode::User => banger_engine::NetworkMode::User,
            NetworkMode::None => banger_engine::NetworkMode::None,
        },
        jailed,
    }
}

/// The daemon.
#[derive(Debug)]
pub struct Daemon {
    options: Options,
    database: Database,
    condition: Condition,
    /// Directories of VMs that no row knows, as the start found them.
    orphans: std::sync::Mutex<Vec<Orphan>>,
    images: Store,
    helper: Option<Helper>,
    bridge: Bridge,
    vms: Registry,
    activity: Activity,
    events: Events,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// What the host was seen to have, once that was enough for some VM.
    host: Mutex<Option<Host>>,
    kernel_jobs: SharedJobs<Kernel>,
    image_jobs: SharedJobs<Image>,
    contents: Arc<RwLock<()>>,
    known_hosts: Mutex<()>,
    started_unix_ms: u64,
}

impl Daemon {
    /// Opens the state below `options.dirs` and reconciles it with what runs. The caller
    /// holds the lock that makes this the only daemon on these directories.
    pub(crate) async fn open(options: Options) -> Result<Arc<Self>, Refusal> {
        let dirs = options.dirs.clone();
        let tasks = TaskTracker::new();
        let told = tasks.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let path = dirs.state.join("bangerd.db");
            let database = Database::open_whatever(&path, &place::state_root(&dirs))?;
            let images = Store::open(&dirs.data, &dirs.cache)?;
            let events = Events::open(&dirs.state.join("events"), told);
            Ok::<_, Refusal>((database, images, events))
        });
        let ((database, condition), images, events) = opened
            .await
            .unwrap_or_else(|error| Err(Refusal::internal("open the state", &error)))?;
        let helper = find_helper(&options).await?;
        let daemon = Arc::new(Self {
            options,
            database,
            condition,
            orphans: std::sync::Mutex::default(),
            images,
            helper,
            bridge: Bridge::default(),
            vms: Registry::default(),
            activity: Activity::default(),
            events,
            tasks,
            closing: CancellationToken::new(),
            host: Mutex::new(None),
            kernel_jobs: SharedJobs::default(),
            image_jobs: SharedJobs::default(),
            contents: Arc::default(),
            known_hosts: Mutex::new(()),
            started_unix_ms: now_unix_ms(),
        });
        reconcile::reconcile(&daemon).await?;
        daemon.tasks.spawn(reserve::keep(Arc::clone(&daemon)));
        Ok(daemon)
    }

    /// What it is there for.
    pub(crate) fn role(&self) -> Role {
        self.options.role
    }

    /// Its directories.
    pub(crate) fn dirs(&self) -> &Dirs {
        &self.options.dirs
    }

    /// Its limits.
    pub(crate) fn limits(&self) -> Limits {
        self.options.limits
    }

    /// Who does what needs root, if anybody does.
    pub(crate) fn helper(&self) -> Option<&Helper> {
        self.helper.as_ref()
    }

    /// The VMs' bridge.
    pub(crate) fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// The jail of the VM's last start, if it ran in one.
    pub(crate) fn jail(&self, record: &VmRecord) -> Option<Arc<dyn Jail>> {
        if record.engine_kind != EngineKind::Firecracker || !record.is_helped {
            return None;
        }
        let jail = VmJail::new(self.helper.clone()?, record.last_start()?);
        Some(Arc::new(jail))
    }

    /// The network of VMs for which nobody says which.
    pub(crate) async fn best_network(&self) -> NetworkMode {
        if self.helper.is_none() {
            return NetworkMode::User;
        }
        let is_possible = match &self.options.engine {
            EngineChoice::Fixed(_) => true,
            EngineChoice::Host => self.engine(NetworkMode::Nat).await.is_ok(),
        };
        if is_possible {
            NetworkMode::Nat
        } else {
            NetworkMode::User
        }
    }

    /// What was acknowledged.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// In which condition the database was found.
    pub(crate) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Directories of VMs that no row knows.
    pub(crate) fn orphans(&self) -> Vec<Orphan> {
        self.orphans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes note of such directories, in the place of those known before.
    pub(crate) fn note_orphans(&self, orphans: Vec<Orphan>) {
        *self.orphans.lock().unwrap_or_else(PoisonError::into_inner) = orphans;
    }

    /// Kernels and images. Its calls block: see [`Daemon::with_images`].
    pub(crate) fn images(&self) -> &Store {
        &self.images
    }

    /// The VMs.
    pub(crate) fn vms(&self) -> &Registry {
        &self.vms
    }

    /// What happened to them.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What keeps it alive.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// The tasks that it waits for when it ends.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the daemon ends: no VM is made from then on.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Downloads of kernels that go on.
    pub(crate) fn kernel_jobs(&self) -> &SharedJobs<Kernel> {
        &self.kernel_jobs
    }

    /// Builds of images that go on.
    pub(crate) fn image_jobs(&self) -> &SharedJobs<Image> {
        &self.image_jobs
    }

    /// Held for reading while a VM that uses a content is made, for writing while one is removed.
    pub(crate) fn contents(&self) -> Arc<RwLock<()>> {
        Arc::clone(&self.contents)
    }

    /// Held while the file of known hosts is written.
    pub(crate) fn known_hosts(&self) -> &Mutex<()> {
        &self.known_hosts
    }

    /// When it started, in milliseconds since 1970.
    pub(crate) fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    /// Runs `work` on the kernels and images, on a thread that may block.
    pub(crate) async fn with_images<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, ImagesError> + Send + 'static,
    ) -> Result<T, ImagesError> {
        let images = self.images.clone();
        let done = tokio::task::spawn_blocking(move || work(&images)).await;
        done.unwrap_or_else(|error| {
            Err(ImagesError::Io {
                what: "work on",
                path: "the store of images".into(),
                source: error.into(),
            })
        })
    }

    /// The configuration as it stands in the file now.
    pub(crate) async fn config(&self) -> Result<Config, Refusal> {
        let path = self.options.dirs.config.clone();
        let read = tokio::task::spawn_blocking(move || config::load(&path)).await;
        match read {
            Ok(config) => Ok(config?),
            Err(error) => Err(Refusal::internal("read the configuration", &error)),
        }
    }

    /// The engine for a VM with this network, within the configuration.
    pub(crate) async fn engine(&self, network: NetworkMode) -> Result<Arc<dyn Engine>, Refusal> {
        if let EngineChoice::Fixed(engine) = &self.options.engine {
            return Ok(Arc::clone(engine));
        }
        let jailed = self.helper.is_some();
        let wish = wish(&self.config().await?.engine, network, jailed);
        let mut host = self.host.lock().await;
        if let Some(Ok(engine)) = host.as_ref().map(|host| host.choose(&wish)) {
            return Ok(engine);
        }
        // What was seen is not enough, but may be no longer true.
        let seen = look_at_host().await?;
        let engine = seen.choose(&wish)?;
        *host = Some(seen);
        Ok(engine)
    }

    /// Takes over the VMM of a former daemon, whatever the configuration says now.
    pub(crate) async fn adopt(
        &self,
        kind: EngineKind,
        process: &ProcessId,
        place: &Place,
    ) -> Result<Box<dyn Machine>, EngineError> {
        match &self.options.engine {
            EngineChoice::Fixed(engine) => engine.adopt(process, place).await,
            EngineChoice::Host => banger_engine::adopt(kind, process, place).await,
        }
    }

    /// The agent's program.
    pub(crate) fn agent(&self) -> Result<PathBuf, Refusal> {
        if let Some(agent) = &self.options.agent {
            return Ok(agent.clone());
        }
        if let Some(agent) = std::env::var_os("BANGER_AGENT") {
            return Ok(PathBuf::from(agent));
        }
        let beside = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(|dir| dir.to_owned()));
        beside
            .iter()
            .flat_map(|dir| {
                [
                    dir.join("banger-agent"),
                    dir.join("../lib/banger/banger-agent"),
                ]
            })
            .find(|agent| agent.is_file())
            .ok_or_else(|| {
                Refusal::new(
                    ProblemCode::HostUnsupported,
                    "find the guest's agent: banger-agent is not beside bangerd",
                )
                .hint(
                    "install banger-agent beside bangerd, or set BANGER_AGENT and restart bangerd",
                )
            })
    }

    /// Removes what there is of a VM whose VMM is gone: directories, pinned key, row. Goes on
    /// after a failure and may be repeated; the row stays while anything else does.
    pub(crate) async fn erase(&self, id: &VmId) -> Result<(), Refusal> {
        let place = VmPlace::of(self.dirs(), id);
        let removed = tokio::task::spawn_blocking(move || {
            let had_key = place.host_key().exists();
            (had_key, [place.remove_run(), place.remove_state()])
        });
        let (had_key, results) = removed
            .await
            .map_err(|error| Refusal::internal("remove a VM's directories", &error))?;
        let mut failed: Option<Refusal> = None;
        for error in results.into_iter().filter_map(Result::err) {
            match &mut failed {
                Some(first) => first.0.causes.push(error.to_string()),
                None => failed = Some(Refusal::io(format!("remove the files of {id}"), &error)),
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        self.database.delete(id).await?;
        self.vms.take_out(id);
        if had_key && let Err(error) = ssh::write_known_hosts(self).await {
            // A pin too many hurts nobody; the next write drops it.
            tracing::warn!(vm = %id, error = %error, "drop the pinned host key");
        }
        Ok(())
    }

    /// Refuses what must not be done beside a jailed VMM that may run still, where there is no helper to
    /// end it: another writer to its disk, or to forget it.
    pub(crate) fn check_reach(&self, record: &VmRecord) -> Result<(), Refusal> {
        let may_run = record.is_helped && record.process.is_some();
        if !may_run || self.helper.is_some() {
            return Ok(());
        }
        let name = record.plan.name.as_str();
        Err(Refusal::new(
            ProblemCode::HostUnsupported,
            format!(
                "end what may run still of VM {name:?}: it is in a jail, and there is no root helper now"
            ),
        )
        .hint("set daemon.mode to \"local\" in config.toml, end bangerd (kill it by TERM), and repeat the command"))
    }

    /// Has the helper remove what it made for the VM's last start, if that is not done.
    pub(crate) async fn release(&self, record: &mut VmRecord) -> Result<(), Refusal> {
        if !record.is_helped {
            return Ok(());
        }
        self.check_reach(record)?;
        if let (Some(helper), Some(vm)) = (&self.helper, record.last_start()) {
            let is_snapshot = record.plan.storage == StorageMode::Snapshot;
            helper.release(&vm, is_snapshot).await?;
        } else {
            // Nothing of it can be reached from here; whoever has the helper reclaims it.
            tracing::warn!(vm = %record.id, "without a helper, what one made for it stays");
        }
        record.is_helped = false;
        Ok(())
    }

    /// Removes the VMs that are not meant to last, lets go of the others and waits for both.
    pub async fn shutdown(&self) {
        self.closing.cancel();
        let vms = self.vms.all();
        let parting = vms.iter().map(|vm| async move {
            if vm.now().record.plan.ephemeral {
                vm.remove(true).await
            } else {
                vm.detach().await
            }
        });
        let all = futures_util::future::join_all(parting);
        match tokio::time::timeout(SHUTDOWN_LIMIT, all).await {
            Ok(outcomes) => {
                for (vm, outcome) in vms.iter().zip(outcomes) {
                    if let Err(error) = outcome {
                        tracing::error!(vm = %vm.id, %error, "let go of a VM");
                    }
                }
            }
            Err(_) => tracing::error!("some VMs could not be let go of in time"),
        }
        let none_runs = vms.iter().all(|vm| vm.now().record.process.is_none());
        if none_runs && let Some(helper) = &self.helper {
            self.bridge.forget_names(helper).await;
        }
        self.tasks.close();
        let ended = tokio::time::timeout(PARTING_LIMIT, self.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("some clients were cut off");
        }
    }
}
