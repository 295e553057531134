//! Names of VMs in systemd-resolved: queries for our zone, and no others, go to the daemon at the
//! bridge's address.

use std::net::SocketAddrV4;
use std::path::Path;

use banger_bus::{Bus, BusError};
use banger_priv::{Refusal, RefusalKind, Reply, ResolverRouting};
use rustix::io::Errno;

use crate::helper::{Helper, Outcome, done};
use crate::ops::bridge;
use crate::policy::{BUS, BUS_LIMIT, FIRST_RESOLVER_PORT, ZONE};
use crate::refusal::{chain, refuse};
use crate::undo::attempt;

/// Has resolved ask `port` of the bridge's address. Bridge and zone are not the caller's to choose.
pub(crate) fn sync_resolver_routing(helper: &Helper, asked: ResolverRouting) -> Outcome {
    let port = asked.port;
    if port < FIRST_RESOLVER_PORT {
        let message = format!("route names to port {port}: below {FIRST_RESOLVER_PORT}");
        return Err(refuse(RefusalKind::Invalid, message));
    }
    let (entry, index) = bridge::standing(helper)?;
    attempt(|undo| {
        let before = entry.resolver_port;
        record(helper, Some(port))?;
        undo.push("restore the record of the bridge", move || {
            record(helper, before)
        });
        let mut bus = connect()?;
        undo.push("revert the bridge in systemd-resolved", move || {
            connect()?.revert_link(index).map_err(|error| wrong(&error))
        });
        let server = SocketAddrV4::new(entry.subnet.gateway(), port);
        let routed = bus.route_zone(index, ZONE, server);
        routed.map_err(|error| wrong(&error))
    })?;
    done(Reply::Nothing)
}

/// Ends that.
pub(crate) fn clear_resolver_routing(helper: &Helper) -> Outcome {
    bridge::standing(helper)?;
    revert(helper)?;
    done(Reply::Nothing)
}

/// Ends it if it was begun. Where bridge or resolved are gone, so is what was set.
pub(crate) fn revert(helper: &Helper) -> Result<(), Refusal> {
    let is_routed = helper
        .ledger()
        .bridge()
        .is_some_and(|entry| entry.resolver_port.is_some());
    if !is_routed {
        return Ok(());
    }
    if let Ok((_, index)) = bridge::standing(helper) {
        let reverted =
            connect().and_then(|mut bus| bus.revert_link(index).map_err(|error| wrong(&error)));
        match reverted {
            Err(refusal) if refusal.kind != RefusalKind::Unsupported => return Err(refusal),
            _ => {}
        }
    }
    record(helper, None)
}

fn record(helper: &Helper, port: Option<u16>) -> Result<(), Refusal> {
    let mut ledger = helper.ledger();
    ledger.update_bridge(|entry| entry.resolver_port = port)
}

fn connect() -> Result<Bus, Refusal> {
    Bus::connect(Path::new(BUS), BUS_LIMIT).map_err(|error| wrong(&error))
}

fn wrong(error: &BusError) -> Refusal {
    let kind = match error {
        BusError::ServiceMissing(_) => RefusalKind::Unsupported,
        BusError::Io { source, .. } => match Errno::from_io_error(source) {
            Some(Errno::NOENT | Errno::CONNREFUSED) => RefusalKind::Unsupported,
            _ => RefusalKind::Failed,
        },
        BusError::TimedOut(_) => RefusalKind::TimedOut,
        _ => RefusalKind::Failed,
    };
    refuse(kind, format!("route names: {}", chain(error)))
}
