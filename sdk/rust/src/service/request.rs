//! What happens to every request around its handler: its place in a trace, a span and a line in the log; and what is
//! answered where there is no handler.

use std::time::Instant;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode, Uri};
use tracing::Instrument;

use crate::TraceContext;

use super::{Caller, Platform, Refusal};

/// Runs a request's handler within a span and as a step of the caller's trace.
pub(super) async fn observe(platform: Platform, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(platform);
    let step = TraceContext::of(request.headers()).map_or_else(TraceContext::begin, |caller| caller.next());
    let request_id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        // Without the query: people put secrets there.
        path = %request.uri().path(),
        trace.id = %step.trace_id(),
        request.id = %request_id,
    );
    let work = async {
        let started = Instant::now();
        let answer = next.run(request).await;
        let (status, took) = (answer.status(), started.elapsed());
        match status.is_server_error() {
            true => tracing::warn!("answered {status} after {took:?}"),
            false => tracing::debug!("answered {status} after {took:?}"),
        }
        answer
    };
    step.scope(work.instrument(span)).await
}

/// Lets those pass who have the permission.
pub(super) async fn guard(
    permission: &str,
    platform: Platform,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match platform.require(&caller, permission).await {
        Ok(()) => next.run(request).await,
        Err(error) => Refusal::from(error).into_response(),
    }
}

pub(super) async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at `{}` in this service", uri.path()))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("`{}` does not take {method}", uri.path()))
}

/// The answer to the daemon's probes: the service runs.
pub(super) async fn health() -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({ "status": "ok" }))
}
