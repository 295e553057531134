//! Ways to the helper.

use banger_priv::{Reply, Request, SOCKET};
use banger_priv_client::{Client, ClientError};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// A way to the helper. A call blocks until the answer or the limit.
pub trait Link: Send + Sync + fmt::Debug {
    /// Carries out one request.
    fn call(
        &self,
        request: &Request,
        files: &[OwnedFd],
        limit: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError>;
}

/// The installed service. A connection for each request: so one that waits holds up no other,
/// and a helper that was restarted is found again by itself.
#[derive(Debug)]
pub(super) struct Service;

impl Service {
    /// Whether this process may talk to it.
    pub(super) fn answers() -> bool {
        Client::connect(Path::new(SOCKET)).is_ok()
    }
}

impl Link for Service {
    fn call(
        &self,
        request: &Request,
        files: &[OwnedFd],
        limit: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        Client::connect(Path::new(SOCKET))?.call(request, files, limit)
    }
}
