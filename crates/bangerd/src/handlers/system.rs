//! The daemon itself and its host.

use crate::daemon::Daemon;
use crate::host;
use crate::problem::Refusal;
use crate::reconcile;
use crate::routes;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::{Config, HostView, ProblemBody, TidyView, VersionView};
use std::sync::Arc;

/// Shows the daemon's version
#[utoipa::path(get, path = "/v1/version", responses((status = 200, body = VersionView)))]
pub(crate) async fn version(State(daemon): State<Arc<Daemon>>) -> Json<VersionView> {
    Json(VersionView {
        version: env!("CARGO_PKG_VERSION").into(),
        api: "1".into(),
        pid: std::process::id(),
        started_unix_ms: daemon.started_unix_ms(),
    })
}

/// Shows what the daemon found on its host
#[utoipa::path(get, path = "/v1/host", responses((status = 200, body = HostView)))]
pub(crate) async fn host(State(daemon): State<Arc<Daemon>>) -> Json<HostView> {
    Json(host::look(&daemon).await)
}

/// Shows the configuration in force
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = Config), (status = "default", body = ProblemBody)))]
pub(crate) async fn config(State(daemon): State<Arc<Daemon>>) -> Result<Json<Config>, Refusal> {
    Ok(Json(daemon.config().await?))
}

/// Removes what belongs to no VM
#[utoipa::path(post, path = "/v1/tidy", responses((status = 200, body = TidyView), (status = "default", body = ProblemBody)))]
pub(crate) async fn tidy(State(daemon): State<Arc<Daemon>>) -> Json<TidyView> {
    let (removed, left) = reconcile::tidy(&daemon).await;
    Json(TidyView { removed, left })
}

/// Describes this API
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "An OpenAPI document", content_type = "application/json")))]
pub(crate) async fn openapi() -> Result<Response, Refusal> {
    let text = routes::document()
        .to_json()
        .map_err(|error| Refusal::internal("write the OpenAPI document", &error))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}
