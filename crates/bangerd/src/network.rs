//! The VMs' bridge, from the daemon's side: made when a VM first needs it, with the names of
//! VMs answered on it and the host's resolver told so.
//!
//! The helper makes and guards the links; what was found to stand is believed until something
//! on it fails.

use crate::daemon::Daemon;
use crate::dns::{self, Sources};
use crate::net_plan::{self, NAMES_PORT};
use crate::privilege::Helper;
use crate::problem::Refusal;
use banger_api::{NetworkConfig, ProblemCode};
use banger_engine::Tap;
use banger_guest::boot::Network;
use banger_names::{VmName, VmRef};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Weak};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where systemd-resolved tells of the resolvers that it asks itself, and where everybody else does.
const RESOLV_CONFS: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];

/// The largest such file that is read, in bytes.
const MAX_RESOLV_CONF: u64 = 64 * 1024;

/// The bridge, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    now: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was last found to stand.
    standing: Option<NetworkConfig>,
    /// The names that are answered there.
    names: Option<Names>,
    /// Why names of VMs are not known to the host, if they are not.
    nameless: Option<String>,
}

#[derive(Debug)]
struct Names {
    at: Ipv4Addr,
    _serving: DropGuard,
}

/// A VM's card: what the machine and what the guest is told of it.
#[derive(Debug)]
pub(crate) struct Wired {
    pub(crate) tap: Tap,
    pub(crate) network: Network,
}

/// What a doctor asks about the bridge.
#[derive(Debug)]
pub(crate) struct BridgeNews {
    /// The bridge that stands, if one was made.
    pub(crate) standing: Option<NetworkConfig>,
    /// Why names of VMs are not known to the host.
    pub(crate) nameless: Option<String>,
}

impl Bridge {
    /// What is known.
    pub(crate) async fn news(&self) -> BridgeNews {
        let state = self.now.lock().await;
        BridgeNews {
            standing: state.standing.clone(),
            nameless: state.nameless.clone(),
        }
    }

    /// Makes the VM's tap at `address`, on a bridge that was found to stand, and lets it out.
    /// What fails is undone.
    pub(crate) async fn wire(
        &self,
        daemon: &Arc<Daemon>,
        helper: &Helper,
        config: &NetworkConfig,
        vm: &VmRef,
        address: Ipv4Addr,
        was_known: bool,
    ) -> Result<Wired, Refusal> {
        let tap = match tap(helper, vm, address).await {
            Ok(tap) => tap,
            Err(refusal) if was_known => {
                // Perhaps somebody took the bridge away since it was last looked at.
                tracing::info!(%vm, %refusal, causes = ?refusal.0.causes, "look at the bridge again");
                self.now.lock().await.standing = None;
                self.ensure(daemon, helper, config).await?;
                tap(helper, vm, address).await?
            }
            Err(refusal) => {
                self.now.lock().await.standing = None;
                return Err(refusal);
            }
        };
        let resolvers = tokio::task::spawn_blocking(host_resolvers).await;
        let resolvers = resolvers.unwrap_or_default();
        Ok(Wired {
            tap,
            network: net_plan::guest_network(&config.subnet, address, &resolvers),
        })
    }

    /// Makes the bridge unless it is known to stand; tells whether it was.
    pub(crate) async fn ensure(
        &self,
        daemon: &Arc<Daemon>,
        helper: &Helper,
        config: &NetworkConfig,
    ) -> Result<bool, Refusal> {
        let mut state = self.now.lock().await;
        if state.standing.as_ref() == Some(config) {
            return Ok(true);
        }
        helper.ensure_bridge(config).await?;
        state.standing = Some(config.clone());
        let named = state.answer_names(daemon, config).await;
        let named = match named {
            Ok(()) => helper
                .sync_resolver(NAMES_PORT)
                .await
                .map_err(|error| told(&error.refusal())),
            Err(error) => Err(format!(
                "answer names at {}:{NAMES_PORT}: {error}",
                config.subnet.gateway()
            )),
        };
        // VMs run without names too.
        state.nameless = named.err();
        if let Some(why) = &state.nameless {
            tracing::warn!(why, "the host does not know the names of VMs");
        }
        Ok(false)
    }

    /// Forgets the names, at the daemon's orderly end with no VM left.
    pub(crate) async fn forget_names(&self, helper: &Helper) {
        let mut state = self.now.lock().await;
        if state.names.take().is_none() || state.nameless.is_some() {
            return;
        }
        if let Err(error) = helper.clear_resolver().await {
            tracing::warn!(error = %told(&error.refusal()), "revert the host's resolver");
        }
    }
}

impl State {
    /// Answers names at the bridge's address; done already where that is the same.
    async fn answer_names(
        &mut self,
        daemon: &Arc<Daemon>,
        config: &NetworkConfig,
    ) -> io::Result<()> {
        let at = config.subnet.gateway();
        if self.names.as_ref().is_some_and(|names| names.at == at) {
            return Ok(());
        }
        self.names = None;
        let socket = SocketAddrV4::new(at, NAMES_PORT);
        let udp = UdpSocket::bind(socket).await?;
        let tcp = TcpListener::bind(socket).await?;
        let stop = CancellationToken::new();
        // Only the host itself asks: it does so from the address that it asks at.
        let sources = Sources {
            address: at,
            prefix: 32,
        };
        let owner = Arc::downgrade(daemon);
        let lookup = move |name: &VmName| address_of(&owner, name);
        drop(tokio::spawn(dns::serve(
            udp,
            tcp,
            sources,
            lookup,
            stop.clone(),
        )));
        self.names = Some(Names {
            at,
            _serving: stop.drop_guard(),
        });
        Ok(())
    }
}

/// Takes up a bridge that a former daemon made, where VMs run on it.
pub(crate) async fn take_up(daemon: Arc<Daemon>) {
    let (Some(helper), Ok(config)) = (daemon.helper(), daemon.config().await) else {
        return;
    };
    let bridge = daemon.bridge();
    if let Err(refusal) = bridge.ensure(&daemon, helper, &config.network).await {
        tracing::warn!(error = %told(&refusal), "take up the VMs' bridge");
    }
}

fn address_of(daemon: &Weak<Daemon>, name: &VmName) -> Option<Ipv4Addr> {
    daemon.upgrade()?.vms().address_of(name)
}

async fn tap(helper: &Helper, vm: &VmRef, address: Ipv4Addr) -> Result<Tap, Refusal> {
    let tap = helper.create_tap(vm, address).await?;
    if let Err(error) = helper.ensure_nat(vm).await {
        let mut refusal = error.refusal();
        if let Err(undo) = helper.remove_tap(vm).await {
            refusal.0.causes.push(told(&undo.refusal()));
        }
        return Err(refusal);
    }
    Ok(Tap {
        name: tap.name,
        mac: tap.mac,
    })
}

/// The resolvers that a guest asks: the host's own, where they can be reached from there.
fn host_resolvers() -> Vec<IpAddr> {
    let read = |path: &&str| -> Option<String> {
        use std::io::Read;
        let mut text = String::new();
        let file = std::fs::File::open(path).ok()?;
        file.take(MAX_RESOLV_CONF).read_to_string(&mut text).ok()?;
        Some(text)
    };
    let mut all = RESOLV_CONFS.iter().filter_map(read);
    all.find_map(|text| Some(net_plan::resolvers(&text)).filter(|found| !found.is_empty()))
        .unwrap_or_default()
}

/// Everything a refusal says, in one line.
pub(crate) fn told(refusal: &Refusal) -> String {
    let mut text = refusal.0.message.clone();
    for cause in &refusal.0.causes {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

/// The refusal of a start whose network needs a helper that is not there.
pub(crate) fn needs_helper() -> Refusal {
    Refusal::new(
        ProblemCode::HostUnsupported,
        "give a VM a network by NAT: it needs root, and banger has none here",
    )
    .hint("sudo banger system install, or use --network user")
}
