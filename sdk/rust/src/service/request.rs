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

use crate::TraceContext;

use super::{Caller, Platform, Refusal};

/// Runs the handler in a tracing span, as a child span of the caller's trace.
pub(super) async fn observe(platform: Platform, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(platform);
    let step = TraceContext::of(request.headers()).map_or_else(TraceContext::begin, |caller| caller.next());
    let request_id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        // Without the query, which may contain secrets.
        path = %request.uri().path(),
        trace.id = %step.trace_id(),
        request.id = %request_id,
    );
    let work = async {
        let started = Instant::now();
        let answer = match caught(next.run(request)).await {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::error!("the handler panicked: {reason}");
                let sentence = "internal error in this service; its log has the cause under the request id";
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, sentence).into_response()
            }
        };
        let (status, took) = (answer.status(), started.elapsed());
        match status.is_server_error() {
            true => tracing::warn!("responded {status} after {took:?}"),
            false => tracing::debug!("responded {status} after {took:?}"),
        }
        answer
    };
    step.scope(work.instrument(span)).await
}

/// Catches a panic of the handler and returns its message. Otherwise the connection would close without a response, and
/// the gateway would take that for a broken connection and send the request again.
async fn caught(work: impl Future<Output = Response>) -> Result<Response, String> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // Unwind safe: only the handler's own state may be inconsistent, and it is not polled again.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
        }
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown panic message").to_owned()
}

/// Runs the handler and sends the body of its response, until both are complete or are aborted at shutdown.
pub(super) async fn until_cut(mut is_cut: watch::Receiver<bool>, request: Request, next: Next) -> Response {
    let mut body_is_cut = is_cut.clone();
    let answer = tokio::select! {
        biased;
        answer = next.run(request) => answer,
        _ = is_cut.wait_for(|is_cut| *is_cut) => {
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down; try again in a moment").into_response();
        }
    };
    if answer.body().is_end_stream() || answer.body().size_hint().exact().is_some() {
        return answer;
    }
    // A streamed body may never end, so it is aborted too.
    let cut = Box::pin(async move { drop(body_is_cut.wait_for(|is_cut| *is_cut).await) });
    answer.map(|body| Body::new(Cut { body, cut }))
}

/// A body that ends with an error when it is aborted.
struct Cut {
    body: Body,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Polled first, since the body may always be ready. The body is not polled again after an error.
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(axum::Error::new("the service is shutting down")))),
            Poll::Pending => Pin::new(&mut self.body).poll_frame(cx),
        }
    }
}

/// Middleware that requires a permission.
pub(super) async fn guard(
    permission: Arc<str>,
    platform: Platform,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match platform.require(&caller, &permission).await {
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

/// Responds to the daemon's health checks.
pub(super) async fn health() -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({ "status": "ok" }))
}
