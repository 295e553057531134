//! The daemon's view of the helper, which does what needs root.
//!
//! A [`Helper`] is one of three: the installed service (system mode), a child of the daemon's
//! own (local mode), or none (rootless: then there is no value of this type). Its calls block,
//! so they run off the asynchronous threads; each has its limit, and each failure names what
//! was being done, the helper's own words, and the next command.

mod child;
pub(crate) mod jail;
mod link;
mod snapshots;

use crate::problem::Refusal;
use banger_api::{DaemonMode, Dirs, NetworkConfig, ProblemCode};
use banger_names::VmRef;
use banger_priv::{
    CreateTap, EnsureBridge, Launch, Reclaim, RefusalKind, Reply, Request, ResolverRouting, Status,
    Tap,
};
use banger_priv_client::ClientError;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub use link::Link;

/// What most verbs may take: some system calls, on a host that may be busy or emulated.
const SHORT: Duration = Duration::from_secs(15);

/// What starting, ending and finding VMMs may take.
const LONG: Duration = Duration::from_secs(60);

/// Who does what needs root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The installed service.
    System,
    /// The daemon's own child.
    Local,
    /// Nobody.
    Rootless,
}

impl Mode {
    /// The word for people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Local => "local",
            Self::Rootless => "rootless",
        }
    }

    /// The command that helps where the helper does not answer.
    fn remedy(self) -> &'static str {
        match self {
            Self::System => "systemctl status bangerd-root, then sudo banger system restart",
            Self::Local | Self::Rootless => "repeat the command: the helper is started anew",
        }
    }
}

/// The helper; clones share it.
#[derive(Debug, Clone)]
pub struct Helper {
    link: Arc<dyn Link>,
    mode: Mode,
}

/// Why the helper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub(crate) struct HelperError {
    /// What was being done: a verb and an object.
    doing: &'static str,
    mode: Mode,
    source: ClientError,
}

impl HelperError {
    /// Whether the helper says that it made nothing of the kind for this VM.
    pub(crate) fn is_unknown(&self) -> bool {
        let ClientError::Refused(refusal) = &self.source else {
            return false;
        };
        refusal.kind == RefusalKind::Unknown
    }

    /// Whether the helper was reached and said no.
    fn is_refused(&self) -> bool {
        matches!(self.source, ClientError::Refused(_))
    }

    /// As the client is told.
    pub(crate) fn refusal(&self) -> Refusal {
        let code = match &self.source {
            ClientError::Refused(refusal) => match refusal.kind {
                RefusalKind::Invalid | RefusalKind::Unknown | RefusalKind::Failed => {
                    ProblemCode::Internal
                }
                RefusalKind::Exists | RefusalKind::Busy | RefusalKind::Foreign => {
                    ProblemCode::Conflict
                }
                RefusalKind::Limit => ProblemCode::Exhausted,
                RefusalKind::Unsupported => ProblemCode::HostUnsupported,
                RefusalKind::TimedOut => ProblemCode::TimedOut,
            },
            ClientError::TimedOut => ProblemCode::TimedOut,
            _ => ProblemCode::HostUnsupported,
        };
        let mut refusal = Refusal::new(code, self.doing);
        refusal.0.causes.push(self.source.to_string());
        if let Some(source) = std::error::Error::source(&self.source) {
            refusal.0.causes.push(source.to_string());
        }
        match &self.source {
            ClientError::Refused(_) => refusal.hint("banger doctor"),
            _ => refusal.hint(self.mode.remedy()),
        }
    }
}

impl From<HelperError> for Refusal {
    fn from(error: HelperError) -> Self {
        error.refusal()
    }
}

/// Finds the helper that the configuration asks for. `is_service` says that this daemon is the
/// installed one. Blocks for as long as a child takes to answer.
pub(crate) fn find(
    wanted: DaemonMode,
    is_service: bool,
    dirs: &Dirs,
) -> Result<Option<Helper>, Refusal> {
    if is_service || (wanted == DaemonMode::Auto && link::Service::answers()) {
        return Ok(Some(Helper {
            link: Arc::new(link::Service),
            mode: Mode::System,
        }));
    }
    match wanted {
        DaemonMode::Auto | DaemonMode::Rootless => Ok(None),
        DaemonMode::Local => Ok(Some(Helper {
            link: Arc::new(child::start(dirs)?),
            mode: Mode::Local,
        })),
    }
}

impl Helper {
    /// A helper behind any link.
    pub fn behind(link: Arc<dyn Link>, mode: Mode) -> Self {
        Self { link, mode }
    }

    /// How this helper came to be.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// What the helper is and which VMs it knows.
    pub(crate) async fn status(&self) -> Result<Status, HelperError> {
        let ask = self.ask("ask the helper how it is", Request::Status {}, Vec::new());
        match ask.await? {
            (Reply::Status(status), _) => Ok(status),
            other => Err(self.strange("ask the helper how it is", &other)),
        }
    }

    /// Makes the bridge, or proves that it stands; tells whether it was made now.
    pub(crate) async fn ensure_bridge(&self, config: &NetworkConfig) -> Result<bool, HelperError> {
        const DOING: &str = "make the VMs' bridge";
        let request = Request::EnsureBridge(EnsureBridge {
            bridge: config.bridge.clone(),
            subnet: config.subnet,
        });
        match self.ask(DOING, request, Vec::new()).await? {
            (Reply::Bridge(bridge), _) => Ok(bridge.is_new),
            other => Err(self.strange(DOING, &other)),
        }
    }

    /// Makes a VM's tap.
    pub(crate) async fn create_tap(
        &self,
        vm: &VmRef,
        address: Ipv4Addr,
    ) -> Result<Tap, HelperError> {
        const DOING: &str = "make the VM's tap";
        let request = Request::CreateTap(CreateTap {
            vm: vm.clone(),
            address,
        });
        match self.ask(DOING, request, Vec::new()).await? {
            (Reply::Tap(tap), _) => Ok(tap),
            other => Err(self.strange(DOING, &other)),
        }
    }

    /// Removes it. Gone already is no error.
    pub(crate) async fn remove_tap(&self, vm: &VmRef) -> Result<(), HelperError> {
        let request = Request::RemoveTap(vm.clone());
        gone_is_fine(self.done("remove the VM's tap", request).await)
    }

    /// Lets a VM with a tap reach outward.
    pub(crate) async fn ensure_nat(&self, vm: &VmRef) -> Result<(), HelperError> {
        let request = Request::EnsureNat(vm.clone());
        self.done("let the VM reach outward", request).await
    }

    /// Has the host's resolver ask this port of the bridge's address for names of VMs.
    pub(crate) async fn sync_resolver(&self, port: u16) -> Result<(), HelperError> {
        let request = Request::SyncResolverRouting(ResolverRouting { port });
        self.done("have the host's resolver ask for names of VMs", request)
            .await
    }

    /// Ends that.
    pub(crate) async fn clear_resolver(&self) -> Result<(), HelperError> {
        let request = Request::ClearResolverRouting {};
        self.done("revert the host's resolver", request).await
    }

    /// Starts a VMM in its jail; gives its pidfd.
    pub(crate) async fn launch(
        &self,
        launch: Launch,
        files: Vec<OwnedFd>,
    ) -> Result<OwnedFd, HelperError> {
        const DOING: &str = "start the VMM in its jail";
        let request = Request::LaunchFirecracker(launch);
        match self.ask(DOING, request, files).await? {
            (Reply::Vmm(_), files) => match <[OwnedFd; 1]>::try_from(files) {
                Ok([pidfd]) => Ok(pidfd),
                Err(files) => Err(self.strange(DOING, &(Reply::Nothing, files))),
            },
            other => Err(self.strange(DOING, &other)),
        }
    }

    /// A VMM's sockets and its pidfd. `None`: it does not run.
    pub(crate) async fn sockets(&self, vm: &VmRef) -> Result<Option<[OwnedFd; 3]>, HelperError> {
        const DOING: &str = "reach the VMM in its jail";
        let asked = self.ask(DOING, Request::EnsureSocketAccess(vm.clone()), Vec::new());
        match asked.await {
            Ok((Reply::Vmm(_), files)) => match files.try_into() {
                Ok(files) => Ok(Some(files)),
                Err(files) => Err(self.strange(DOING, &(Reply::Nothing, files))),
            },
            Ok(other) => Err(self.strange(DOING, &other)),
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends a VMM and all that it started. Gone already is no error.
    pub(crate) async fn kill(&self, vm: &VmRef) -> Result<(), HelperError> {
        let request = Request::KillProcess(vm.clone());
        gone_is_fine(self.done("kill the VMM", request).await)
    }

    /// Removes the jail of a VMM that has ended; gives its exit code, if it is known. Gone
    /// already is no error.
    pub(crate) async fn clean_up(&self, vm: &VmRef) -> Result<Option<u8>, HelperError> {
        const DOING: &str = "remove the VM's jail";
        let asked = self.ask(DOING, Request::CleanupJailerChroot(vm.clone()), Vec::new());
        match asked.await {
            Ok((Reply::Ended { code }, _)) => Ok(code),
            Ok((Reply::Nothing, _)) => Ok(None),
            Ok(other) => Err(self.strange(DOING, &other)),
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends and removes what the helper made for any VM but these; tells what that was.
    pub(crate) async fn reclaim(&self, keep: Vec<VmRef>) -> Result<Vec<String>, HelperError> {
        const DOING: &str = "remove what is left of VMs";
        let request = Request::Reclaim(Reclaim { keep });
        match self.ask(DOING, request, Vec::new()).await? {
            (Reply::Reclaimed(removed), _) => Ok(removed),
            other => Err(self.strange(DOING, &other)),
        }
    }

    /// Ends and removes all that was made for a VM. Goes on after a failure and tells the first.
    pub(crate) async fn release(&self, vm: &VmRef, is_snapshot: bool) -> Result<(), HelperError> {
        let mut cleaned = self.clean_up(vm).await;
        if cleaned.as_ref().is_err_and(HelperError::is_refused) {
            // Nearly always its VMM is gone by now; here it seems to run.
            cleaned = match self.kill(vm).await {
                Ok(()) => self.clean_up(vm).await,
                Err(error) => Err(error),
            };
        }
        let removed = self.remove_tap(vm).await;
        let mut released = cleaned.map(drop).and(removed);
        if is_snapshot {
            released = released.and(self.cleanup_snapshot(vm).await);
        }
        released
    }

    async fn done(&self, doing: &'static str, request: Request) -> Result<(), HelperError> {
        match self.ask(doing, request, Vec::new()).await? {
            (Reply::Nothing, _) => Ok(()),
            other => Err(self.strange(doing, &other)),
        }
    }

    async fn ask(
        &self,
        doing: &'static str,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), HelperError> {
        let limit = limit_of(&request);
        let link = Arc::clone(&self.link);
        let asked = tokio::task::spawn_blocking(move || link.call(&request, &files, limit)).await;
        let failed = |source| HelperError {
            doing,
            mode: self.mode,
            source,
        };
        asked
            .unwrap_or_else(|error| Err(ClientError::Lost(error.into())))
            .map_err(failed)
    }

    fn strange(&self, doing: &'static str, answer: &(Reply, Vec<OwnedFd>)) -> HelperError {
        let (reply, files) = answer;
        HelperError {
            doing,
            mode: self.mode,
            source: ClientError::Strange(format!("{reply:?} and {} files", files.len())),
        }
    }
}

fn gone_is_fine(result: Result<(), HelperError>) -> Result<(), HelperError> {
    match result {
        Err(error) if error.is_unknown() => Ok(()),
        other => other,
    }
}

fn limit_of(request: &Request) -> Duration {
    match request {
        Request::LaunchFirecracker(_)
        | Request::EnsureSocketAccess(_)
        | Request::KillProcess(_)
        | Request::CleanupJailerChroot(_)
        | Request::Reclaim(_)
        | Request::EnsureBridge(_) => LONG,
        _ => SHORT,
    }
}
