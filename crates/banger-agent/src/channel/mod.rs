//! How hosts reach the agent: streams over what the engine offers.

mod mux;
mod virtio_serial;
mod vsock;

use std::sync::Arc;
use std::time::Instant;

use banger_guest::boot::Channel;

pub use mux::serve as serve_mux;

use crate::init::uevent::Uevents;
use crate::log;
use crate::serve::Agent;

/// Why hosts cannot reach the agent.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The device did not appear in time.
    #[error("find the virtio-serial port {name:?}")]
    NoPort {
        /// The port's name.
        name: String,
    },
    /// A call failed.
    #[error("{operation}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// Opens the channel and serves it in a thread of its own, for ever.
pub fn start(
    agent: &Arc<Agent>,
    channel: &Channel,
    uevents: &Uevents,
    deadline: Instant,
) -> Result<(), ChannelError> {
    let agent = Arc::clone(agent);
    let serve: Box<dyn FnOnce() -> std::io::Error + Send> = match channel {
        Channel::VirtioSerial { name } => {
            let port = virtio_serial::open(name, uevents, deadline)?;
            Box::new(move || mux::serve(&agent, &port).into())
        }
        Channel::Vsock { port } => {
            let listener = vsock::listen(*port)?;
            Box::new(move || {
                vsock::announce();
                vsock::serve(&agent, &listener).into()
            })
        }
    };
    std::thread::Builder::new()
        .name("channel".to_owned())
        .spawn(move || log::error(&format!("serve the channel: {}", serve())))
        .map(drop)
        .map_err(|source| ChannelError::Io {
            operation: "start the channel's thread".to_owned(),
            source,
        })
}
