//! The body of a client's request. An unread rest is drained when the body is dropped, within limits: closing a connection
//! while bytes still arrive resets it (RFC 9112, 9.6), and the client would not see the response that rejects its body.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::timeout};

/// Maximum bytes drained; the connection of a client that sends more is closed.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// Total and idle time limits of a drain.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a client's request.
pub struct ClientBody {
    /// Taken by `drop`.
    body: Option<Incoming>,
    is_http2: bool,
    /// The client waits for `100 Continue`, or this is HTTP/2, where a stream with an unread body can be reset alone.
    needs_no_drain: bool,
}

impl ClientBody {
    /// Wraps the body of a request.
    pub fn of(request: Request<Incoming>) -> Request<ClientBody> {
        let (head, body) = request.into_parts();
        let is_http2 = head.version == Version::HTTP_2;
        let may_stay_unread = is_http2 || expects_continue(&head.headers);
        Request::from_parts(head, ClientBody { body: Some(body), is_http2, needs_no_drain: may_stay_unread })
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        // Polling sends `100 Continue`, after which an HTTP/1 client sends the body.
        this.needs_no_drain &= this.is_http2;
        match &mut this.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !self.needs_no_drain && !body.is_end_stream()) else {
            return;
        };
        if let Ok(runtime) = Handle::try_current() {
            // A timeout or a disconnect needs no action.
            runtime.spawn(async { timeout(DRAIN_TIMEOUT, drain(body)).await });
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut read = 0;
    while let Ok(Some(Ok(frame))) = timeout(DRAIN_IDLE_TIMEOUT, body.frame()).await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_DRAINED_BYTES {
            return;
        }
    }
}
