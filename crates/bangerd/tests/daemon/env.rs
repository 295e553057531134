//! A daemon on directories of its own, and what must be left when all is over: nothing.

use crate::fake_engine::FakeEngine;
use banger_api::client::{Client, ClientError};
use banger_api::{
    AddImage, AddKernel, CreateVm, Dirs, ImportImage, ImportKernel, Problem, Step, VmSpec, VmView,
};
use banger_names::ByteSize;
use bangerd::daemon::{Daemon, EngineChoice, HelperChoice, Limits, Options, Role};
use bangerd::privilege::Helper;
use bangerd::{listen, startup};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen. Only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct TestEnv {
    pub(crate) temp: TempDir,
    pub(crate) dirs: Dirs,
    pub(crate) engine: Arc<FakeEngine>,
    pub(crate) client: Client,
    role: Role,
    /// Who does for the daemon what needs root, from the next [`TestEnv::open`] on.
    pub(crate) helper: Option<Helper>,
    /// Its limits, from the next [`TestEnv::open`] on.
    pub(crate) limits: Limits,
    running: Option<Running>,
}

/// A daemon, with threads of its own: all that it does can end at once.
struct Running {
    daemon: Arc<Daemon>,
    stop: CancellationToken,
    server: JoinHandle<()>,
    runtime: Runtime,
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        // Within a runtime no other may be waited for.
        if self.running.is_some() {
            self.lose();
        }
    }
}

impl TestEnv {
    /// A daemon with a kernel and the image `debian`.
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let dirs = Dirs {
            runtime: root.join("run"),
            state: root.join("state"),
            data: root.join("data"),
            cache: root.join("cache"),
            config: root.join("config.toml"),
        };
        let mut env = Self::bare(temp, dirs, Role::Own, limits);
        env.open().await;
        env.provide().await;
        env
    }

    /// A daemon that does not run yet, without a kernel and an image.
    pub(crate) fn bare(temp: TempDir, dirs: Dirs, role: Role, limits: Limits) -> Self {
        Self {
            client: Client::new(dirs.socket()),
            dirs,
            temp,
            engine: FakeEngine::new(),
            role,
            helper: None,
            limits,
            running: None,
        }
    }

    /// Starts the daemon, as a new process would.
    pub(crate) async fn open(&mut self) {
        self.dirs.ensure_runtime().unwrap();
        let options = Options {
            role: self.role,
            dirs: self.dirs.clone(),
            engine: EngineChoice::Fixed(match self.helper {
                Some(_) => banger_engine::jailed(),
                None => self.engine.clone(),
            }),
            helper: HelperChoice::Fixed(self.helper.clone()),
            agent: Some(elf(self.temp.path())),
            limits: self.limits,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let opened = runtime.spawn(startup::open(options)).await;
        let daemon = opened.unwrap().unwrap();
        let stop = CancellationToken::new();
        let server = {
            let _entered = runtime.enter();
            let listener = startup::bind(&self.dirs.socket()).unwrap();
            runtime.spawn(listen::serve(Arc::clone(&daemon), listener, stop.clone()))
        };
        self.running = Some(Running {
            daemon,
            stop,
            server,
            runtime,
        });
    }

    /// Ends the daemon in order.
    pub(crate) async fn close(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.cancel();
        let daemon = Arc::clone(&running.daemon);
        let ended = running
            .runtime
            .spawn(async move { daemon.shutdown().await });
        ended.await.unwrap();
        running.server.await.unwrap();
        running.runtime.shutdown_background();
    }

    /// Loses the daemon, as if it had been killed: nothing is let go of in order, and none of its
    /// tasks goes on.
    pub(crate) fn lose(&mut self) {
        let running = self.running.take().unwrap();
        running.runtime.shutdown_background();
    }

    /// Has the daemon import a kernel and the image `debian`.
    pub(crate) async fn provide(&self) {
        let kernel = AddKernel::Import(ImportKernel {
            path: elf(self.temp.path()).display().to_string(),
            modules: None,
            name: "test-kernel".parse().unwrap(),
        });
        let step = self.client.steps("/v1/kernels", &kernel, |_| {}).await;
        assert!(matches!(step.unwrap(), Step::Kernel(_)));
        let image = AddImage::Import(ImportImage {
            path: root_tar(self.temp.path()).display().to_string(),
            tag: "debian".parse().unwrap(),
        });
        let step = self.client.steps("/v1/images", &image, |_| {}).await;
        assert!(matches!(step.unwrap(), Step::Image(_)));
    }

    pub(crate) async fn create(&self, name: &str, start: bool) -> Result<VmView, Problem> {
        let asked = CreateVm {
            vm: spec(name),
            start,
            ..CreateVm::default()
        };
        match self.client.steps("/v1/vms", &asked, |_| {}).await {
            Ok(Step::Vm(vm)) => Ok(*vm),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(problem(error)),
        }
    }

    pub(crate) async fn start_vm(&self, name: &str) -> Result<VmView, Problem> {
        let path = format!("/v1/vms/{name}/start");
        match self.client.steps(&path, &(), |_| {}).await {
            Ok(Step::Vm(vm)) => Ok(*vm),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(problem(error)),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<VmView, Problem> {
        self.client.get(path).await.map_err(problem)
    }

    pub(crate) async fn post<B: serde::Serialize>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<VmView, Problem> {
        self.client.post(path, body).await.map_err(problem)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<VmView, Problem> {
        self.client.delete(path).await.map_err(problem)
    }

    /// Waits until the VM is gone.
    pub(crate) async fn removed(&self, name: &str) {
        let path = format!("/v1/vms/{name}/wait?until=removed&timeout_ms=60000");
        match self.get(&path).await {
            Ok(_) => {}
            Err(problem) => assert_eq!(problem.code, banger_api::ProblemCode::NotFound),
        }
    }

    /// Asserts that no VM left a row, a directory or a process.
    pub(crate) async fn assert_nothing_left(&self) {
        let vms: Vec<VmView> = self.client.get("/v1/vms").await.unwrap();
        assert_eq!(vms, vec![]);
        assert_eq!(self.rows(), 0);
        assert_eq!(
            entries(&self.dirs.runtime.join("vm")),
            Vec::<PathBuf>::new()
        );
        assert_eq!(entries(&self.dirs.state.join("vms")), Vec::<PathBuf>::new());
        assert_eq!(self.engine.living(), Vec::<i32>::new());
    }

    pub(crate) fn rows(&self) -> i64 {
        let database = self.database();
        let count = database.query_row("SELECT count(*) FROM vms", [], |row| row.get(0));
        count.unwrap()
    }

    /// Changes the only record, while there is no daemon.
    pub(crate) fn change_record(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let database = self.database();
        let text = database.query_row("SELECT record FROM vms", [], |row| row.get(0));
        let text: String = text.unwrap();
        let mut record = serde_json::from_str(&text).unwrap();
        change(&mut record);
        let changed = database.execute("UPDATE vms SET record = ?1", [record.to_string()]);
        assert_eq!(changed.unwrap(), 1);
    }

    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dirs.state.join("bangerd.db")).unwrap()
    }
}

pub(crate) fn spec(name: &str) -> VmSpec {
    VmSpec {
        name: Some(name.parse().unwrap()),
        memory: Some(ByteSize::mib(128)),
        disk: Some(ByteSize::mib(64)),
        ..VmSpec::default()
    }
}

pub(crate) fn problem(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => problem,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    }
}

/// The smallest thing that passes for a kernel and for an agent.
fn elf(dir: &Path) -> PathBuf {
    let path = dir.join("program");
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend_from_slice(&2u16.to_le_bytes());
    bytes.extend_from_slice(&62u16.to_le_bytes());
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&0x100_0000u64.to_le_bytes());
    bytes.extend_from_slice(&64u64.to_le_bytes());
    bytes.extend_from_slice(&[0; 12]);
    for field in [64u16, 56, 1, 0, 0, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&5u32.to_le_bytes());
    for field in [0u64, 0x100_0000, 0x100_0000, 120, 120, 4096] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A root file system with one file.
fn root_tar(dir: &Path) -> PathBuf {
    let path = dir.join("root.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(5);
    tar.append_data(&mut header, "etc/hostname", &b"test\n"[..])
        .unwrap();
    tar.finish().unwrap();
    path
}
