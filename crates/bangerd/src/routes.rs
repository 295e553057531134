//! The one table of what can be asked: the router and the OpenAPI document are both made from it.

use crate::daemon::Daemon;
use crate::handlers::{events, images, kernels, logs, run, stats, streams, system, vms, wait};
use crate::problem::Refusal;
use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use banger_api::ProblemCode;
use std::sync::Arc;
use utoipa::OpenApi;

/// Makes, from rows of `method path => handler`, the table, the router and the document.
macro_rules! table {
    ($($method:ident $path:literal => $room:ident :: $handler:ident;)*) => {
        /// Every route: method (lower case) and path.
        pub const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        fn routed() -> Router<Arc<Daemon>> {
            Router::new()$(.route($path, routing::$method($room::$handler)))*
        }

        #[derive(OpenApi)]
        #[openapi(
            info(
                title = "bangerd",
                description = "banger's daemon, on the Unix socket of the user it serves. \
                    Every failure is a ProblemBody.",
            ),
            paths($($room::$handler),*),
            // What no body refers to: query parameters and the events on streams.
            components(schemas(banger_api::LogSource, banger_api::WaitFor, banger_api::stream::StreamEvent))
        )]
        struct Document;
    };
}

table! {
    get "/v1/version" => system::version;
    get "/v1/host" => system::host;
    get "/v1/info" => system::info;
    get "/v1/df" => system::df;
    get "/v1/config" => system::config;
    get "/v1/openapi.json" => system::openapi;
    post "/v1/tidy" => system::tidy;
    get "/v1/stats" => stats::all;
    get "/v1/vms/{vm}/stats" => stats::one;
    get "/v1/events" => events::events;
    post "/v1/run" => run::run;
    get "/v1/vms" => vms::list;
    post "/v1/vms" => vms::create;
    get "/v1/vms/{vm}" => vms::show;
    delete "/v1/vms/{vm}" => vms::remove;
    post "/v1/vms/{vm}/start" => vms::start;
    post "/v1/vms/{vm}/stop" => vms::stop;
    post "/v1/vms/{vm}/restart" => vms::restart;
    post "/v1/vms/{vm}/rename" => vms::rename;
    patch "/v1/vms/{vm}" => vms::set;
    post "/v1/vms/{vm}/kill" => vms::kill;
    get "/v1/vms/{vm}/wait" => wait::wait;
    get "/v1/vms/{vm}/logs" => logs::logs;
    post "/v1/vms/{vm}/exec" => streams::exec;
    post "/v1/vms/{vm}/copy-in" => streams::copy_in;
    post "/v1/vms/{vm}/copy-out" => streams::copy_out;
    post "/v1/vms/{vm}/dial" => streams::dial;
    post "/v1/vms/{vm}/ssh" => streams::ssh;
    get "/v1/vms/{vm}/ssh" => vms::ssh_view;
    get "/v1/images" => images::list;
    post "/v1/images" => images::add;
    get "/v1/images/{image}" => images::show;
    delete "/v1/images/{image}" => images::remove;
    get "/v1/kernels" => kernels::list;
    post "/v1/kernels" => kernels::add;
    get "/v1/kernels/{kernel}" => kernels::show;
    delete "/v1/kernels/{kernel}" => kernels::remove;
    get "/v1/default-kernel" => kernels::show_default;
    put "/v1/default-kernel" => kernels::set_default;
}

/// The router over `daemon`.
pub(crate) fn router(daemon: Arc<Daemon>) -> Router {
    routed()
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&daemon),
            only_looked_at,
        ))
        .with_state(daemon)
}

/// Lets pass what changes nothing banger keeps, where nothing may be changed.
async fn only_looked_at(State(daemon): State<Arc<Daemon>>, asked: Request, next: Next) -> Response {
    let into_a_vm = ["/exec", "/copy-in", "/copy-out", "/dial", "/ssh"];
    let is_harmless = asked.method() == Method::GET
        || into_a_vm
            .iter()
            .any(|end| asked.uri().path().ends_with(end));
    match daemon.condition().refuse_changes() {
        Err(refusal) if !is_harmless => refusal.into_response(),
        _ => next.run(asked).await,
    }
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

async fn unknown(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(
        ProblemCode::NotFound,
        format!("{method} {path:?}: there is no such request"),
    )
    .hint("see /v1/openapi.json; an older bangerd may run: `banger version`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_is_documented_and_the_reverse() {
        let document = serde_json::to_value(document()).unwrap();
        let mut documented = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                documented.insert((method.clone(), path.clone()));
            }
        }
        let routed: BTreeSet<_> = ROUTES
            .iter()
            .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
            .collect();
        assert_eq!(documented, routed);
        assert_eq!(routed.len(), ROUTES.len(), "a route stands twice");
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        fn references(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => {
                    if let Some(serde_json::Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|value| references(value, found));
                }
                serde_json::Value::Array(values) => {
                    values.iter().for_each(|value| references(value, found));
                }
                _ => {}
            }
        }
        let document = serde_json::to_value(document()).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
