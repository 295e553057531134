//! Turning a request into a stream of frames.

use crate::daemon::Daemon;
use crate::listen::ConnectionHold;
use crate::problem::Refusal;
use crate::relay::client_end::ClientEnd;
use axum::extract::FromRequestParts;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use banger_api::stream;
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;

/// A request that asks to become a stream.
#[derive(Debug)]
pub(crate) struct Upgrade {
    on_upgrade: OnUpgrade,
    hold: Option<ConnectionHold>,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let asked = has(&parts.headers, &CONNECTION, "upgrade")
            && has(&parts.headers, &UPGRADE, stream::UPGRADE);
        match parts.extensions.remove::<OnUpgrade>() {
            Some(on_upgrade) if asked => Ok(Self {
                on_upgrade,
                hold: parts.extensions.remove::<ConnectionHold>(),
            }),
            _ => Err(Refusal::invalid(format!(
                "open a stream: the request lacks `Connection: upgrade` and `Upgrade: {}`",
                stream::UPGRADE
            ))),
        }
    }
}

impl Upgrade {
    /// Switches protocols and hands the stream to `work`, in a task that the daemon waits for.
    /// Nothing is done if the client leaves before it has become a stream.
    pub(crate) fn respond<F>(
        self,
        daemon: &Arc<Daemon>,
        work: impl FnOnce(ClientEnd) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { on_upgrade, hold } = self;
        daemon.tasks().spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => work(ClientEnd::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "a client left before its stream began"),
            }
            drop(hold);
        });
        (
            StatusCode::SWITCHING_PROTOCOLS,
            [(CONNECTION, "upgrade"), (UPGRADE, stream::UPGRADE)],
        )
            .into_response()
    }
}

fn has(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}
