//! What comes with a request, capped and deadlined, refused as a problem.

use crate::problem::Refusal;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use banger_api::ProblemCode;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The largest body, in bytes.
pub(crate) const MAX_BODY: usize = 2 << 20;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(15);

/// A JSON body.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let body: Body = request.into_body();
        let reading = Limited::new(body, MAX_BODY).collect();
        let bytes = match tokio::time::timeout(BODY_LIMIT, reading).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => {
                return Err(Refusal::invalid(format!(
                    "read the request's body: {error}"
                )));
            }
            Err(_) => {
                return Err(Refusal::new(
                    ProblemCode::TimedOut,
                    "read the request's body: it does not come",
                ));
            }
        };
        // A request without a body means the defaults.
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|error| Refusal::invalid(format!("understand the request's body: {error}")))
    }
}

/// Query parameters.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(params)| Self(params))
            .map_err(|error| {
                Refusal::invalid(format!("understand the query: {}", error.body_text()))
            })
    }
}

/// The one word in the path.
#[derive(Debug)]
pub(crate) struct Word(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Word {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Path::<String>::from_request_parts(parts, state)
            .await
            .map(|Path(word)| Self(word))
            .map_err(|error| {
                Refusal::invalid(format!("understand the path: {}", error.body_text()))
            })
    }
}
