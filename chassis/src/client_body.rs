//! The body of a client's request. What nobody read of it is read and thrown away when it is dropped, within limits: to
//! close a connection on which bytes still arrive resets it (RFC 9112, 9.6), and then the client never sees the answer
//! that says why its body was not wanted.

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

/// Bytes that are thrown away; a client that sends more is cut.
const MOST: usize = 64 << 20;
/// How long that may take in all, and how long the client may be silent meanwhile.
const LONGEST: Duration = Duration::from_secs(30);
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// A body as it comes from a client.
pub struct ClientBody {
    /// Empty once it is dropped.
    body: Option<Incoming>,
    is_http2: bool,
    /// The client holds it back until it is read, or this is HTTP/2, where an unread body costs nobody anything.
    may_stay_unread: bool,
}

impl ClientBody {
    /// Takes the body of a request over.
    pub fn of(request: Request<Incoming>) -> Request<ClientBody> {
        let (head, body) = request.into_parts();
        let is_http2 = head.version == Version::HTTP_2;
        let may_stay_unread = is_http2 || is_held_back(&head.headers);
        Request::from_parts(head, ClientBody { body: Some(body), is_http2, may_stay_unread })
    }
}

fn is_held_back(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        // Reading it is what makes the client send it. HTTP/2 has streams that end one by one.
        this.may_stay_unread &= this.is_http2;
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
        let Some(body) = self.body.take().filter(|body| !self.may_stay_unread && !body.is_end_stream()) else {
            return;
        };
        if let Ok(runtime) = Handle::try_current() {
            // That the time is over or the client has gone changes nothing.
            runtime.spawn(async { timeout(LONGEST, throw_away(body)).await });
        }
    }
}

async fn throw_away(mut body: Incoming) {
    let mut read = 0;
    while let Ok(Some(Ok(frame))) = timeout(LONGEST_SILENCE, body.frame()).await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MOST {
            return;
        }
    }
}
