//! One vsock connection a stream. Only the host may connect: the guest's own processes can reach vsock
//! ports too, and what is served here is root.

use std::sync::Arc;

use banger_guest::frame::READY_PORT;
use banger_guest_sys::vsock::{HOST_CID, Listener, connect};
use rustix::io::Errno;

use super::ChannelError;
use crate::log;
use crate::serve::Agent;

pub(super) fn listen(port: u32) -> Result<Listener, ChannelError> {
    Listener::bind(port).map_err(|errno| ChannelError::Io {
        operation: format!("listen on vsock port {port}"),
        source: errno.into(),
    })
}

/// Tells the host that we listen. A host that does not want to know refuses.
pub(super) fn announce() {
    if let Err(errno) = connect(HOST_CID, READY_PORT) {
        log::info(&format!("tell the host that the agent listens: {errno}"));
    }
}

/// Serves until the listener breaks.
pub(super) fn serve(agent: &Arc<Agent>, listener: &Listener) -> Errno {
    loop {
        match listener.accept() {
            Ok((connection, HOST_CID)) => agent.serve_in_thread(connection),
            Ok((_, cid)) => log::error(&format!("refused a vsock connection from context {cid}")),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return errno,
        }
    }
}
