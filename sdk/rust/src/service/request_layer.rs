//! Request middleware: trace propagation, logging, panic handling and abort at shutdown; and the fallback handlers.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use http_body::Frame;
use tokio::sync::watch;
use tracing::Instrument;

use super::{ApiError, Caller, Platform};
use crate::TraceContext;

/// Runs the handler in a tracing span, as a child span of the caller's trace.
pub(super) async fn trace_request(platform: Platform, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(platform);
    let span_context =
        TraceContext::from_headers(request.headers()).map_or_else(TraceContext::new_trace, |caller| caller.child());
    let request_id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        // Without the query, which may contain secrets.
        path = %request.uri().path(),
        trace.id = %span_context.trace_id(),
        request.id = %request_id,
    );
    let work = async {
        let started = Instant::now();
        let answer = match catch_panic(next.run(request)).await {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::error!("the handler panicked: {reason}");
                let sentence = "internal error in this service; its log has the cause under the request id";
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, sentence).into_response()
            }
        };
        let (status, took) = (answer.status(), started.elapsed());
        match status.is_server_error() {
            true => tracing::warn!("responded {status} after {took:?}"),
            false => tracing::debug!("responded {status} after {took:?}"),
        }
        answer
    };
    span_context.scope(work.instrument(span)).await
}

/// Catches a panic of the handler and returns its message. Otherwise the connection would close without a response, and
/// the gateway would take that for a broken connection and send the request again.
async fn catch_panic(work: impl Future<Output = Response>) -> Result<Response, String> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // Unwind safe: only the handler's own state may be inconsistent, and it is not polled again.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_message(&*panic))),
        }
    })
    .await
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown panic message").to_owned()
}

/// Runs the handler and sends the body of its response, until both are complete or are aborted at shutdown.
pub(super) async fn until_aborted(mut is_aborted: watch::Receiver<bool>, request: Request, next: Next) -> Response {
    let mut body_is_aborted = is_aborted.clone();
    let answer = tokio::select! {
        biased;
        answer = next.run(request) => answer,
        _ = is_aborted.wait_for(|is_cut| *is_cut) => {
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down; try again in a moment").into_response();
        }
    };
    if answer.body().is_end_stream() || answer.body().size_hint().exact().is_some() {
        return answer;
    }
    // A streamed body may never end, so it is aborted too.
    let cut = Box::pin(async move { drop(body_is_aborted.wait_for(|is_cut| *is_cut).await) });
    answer.map(|body| Body::new(AbortableBody { body, aborted: cut }))
}

/// A body that ends with an error when it is aborted.
struct AbortableBody {
    body: Body,
    aborted: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for AbortableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Polled first, since the body may always be ready. The body is not polled again after an error.
        match self.aborted.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(axum::Error::new("the service is shutting down")))),
            Poll::Pending => Pin::new(&mut self.body).poll_frame(cx),
        }
    }
}

/// Middleware that requires a permission.
pub(super) async fn require_permission(
    permission: Arc<str>,
    platform: Platform,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match platform.require(&caller, &permission).await {
        Ok(()) => next.run(request).await,
        Err(error) => ApiError::from(error).into_response(),
    }
}

pub(super) async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at `{}` in this service", uri.path()))
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("`{}` does not take {method}", uri.path()))
}

/// Responds to the daemon's health checks.
pub(super) async fn health() -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({ "status": "ok" }))
}
