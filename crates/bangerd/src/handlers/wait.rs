//! Waiting for what a VM is to become: a state, or a port that something in it listens on.

use super::body::{Params, Word};
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::relay::GuestEnd;
use crate::vm::handle::{Snapshot, VmHandle};
use crate::vm::view::{view, view_with};
use axum::Json;
use axum::extract::State;
use banger_api::{ProblemBody, ProblemCode, VmState, VmView, WaitFor};
use banger_guest::request::{AwaitPort, Request};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// What to wait for, and how long.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WaitVm {
    until: WaitFor,
    port: Option<u16>,
    timeout_ms: Option<u64>,
}

/// Waits until a VM is in a state, or something in it listens on a port
#[utoipa::path(
    get, path = "/v1/vms/{vm}/wait",
    params(
        ("vm" = String, Path, description = "Name, id or unique id prefix"),
        ("until" = Option<WaitFor>, Query, description = "What to wait for; stopped when left out"),
        ("port" = Option<u16>, Query, description = "A TCP port in the guest to wait for, in place of a state"),
        ("timeout_ms" = Option<u64>, Query, description = "How long; for ever when left out"),
    ),
    responses((status = 200, body = VmView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn wait(
    State(daemon): State<Arc<Daemon>>,
    Word(vm): Word,
    Params(asked): Params<WaitVm>,
) -> Result<Json<VmView>, Refusal> {
    let vm = daemon.vms().find(&vm)?;
    let waiting = async {
        match asked.port {
            Some(port) => listens(&vm, port).await.map(|()| false),
            None => until(&vm, asked.until).await,
        }
    };
    let waited = match asked.timeout_ms {
        Some(ms) => tokio::time::timeout(Duration::from_millis(ms), waiting).await,
        None => Ok(waiting.await),
    };
    match waited {
        Ok(Ok(true)) => Ok(Json(view_with(&vm, banger_names::ByteSize(0)))),
        Ok(Ok(false)) => Ok(Json(view(&daemon, &vm).await)),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(late(&vm, asked.port)),
    }
}

fn late(vm: &VmHandle, port: Option<u16>) -> Refusal {
    let (name, state) = (vm.name(), vm.state().as_str());
    let name = name.as_str();
    let message = match port {
        Some(port) if vm.state() == VmState::Running => {
            format!("wait for port {port} of VM {name:?}: nothing in it listens there")
        }
        _ => format!("wait for VM {name:?}: it is still {state}"),
    };
    Refusal::new(ProblemCode::TimedOut, message)
}

/// Waits for the state; tells whether the VM is gone.
async fn until(vm: &VmHandle, until: WaitFor) -> Result<bool, Refusal> {
    let come = |now: &Snapshot| now.is_removed || is_at(until, now.record.state);
    let mut truth = vm.truth.clone();
    let now = truth.wait_for(come).await;
    // The driver's end without a removal is the daemon's.
    let is_removed = now.map(|now| now.is_removed).map_err(|_| ends())?;
    match until {
        WaitFor::Running | WaitFor::Crashed if is_removed => Err(vm.gone()),
        _ => Ok(is_removed),
    }
}

fn ends() -> Refusal {
    Refusal::cancelled("wait for a VM: the daemon ends")
}

fn is_at(until: WaitFor, state: VmState) -> bool {
    match until {
        WaitFor::Stopped => matches!(
            state,
            VmState::Created | VmState::Stopped | VmState::Crashed
        ),
        WaitFor::Running => state == VmState::Running,
        WaitFor::Crashed => state == VmState::Crashed,
        WaitFor::Removed => false,
    }
}

/// Waits until something in the VM listens on the port. One that boots is waited for; one that
/// does not run listens nowhere.
async fn listens(vm: &VmHandle, port: u16) -> Result<(), Refusal> {
    let mut truth = vm.truth.clone();
    let settled = truth.wait_for(|now| now.is_removed || now.record.state != VmState::Starting);
    settled.await.map_err(|_| ends())?;
    let request = Request::AwaitPort(AwaitPort { port });
    let asked = match GuestEnd::open(vm, &request).await {
        Ok(guest) => guest.outcome().await,
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.0.code == ProblemCode::Invalid => Err(Refusal::new(
            ProblemCode::HostUnsupported,
            format!(
                "wait for a port of VM {:?}: its agent is older and does not know how",
                vm.name().as_str()
            ),
        )
        .hint(format!("banger vm restart {}", vm.name()))),
        Err(refusal) => Err(refusal),
    }
}
