//! Bodies on their way through: frames pass one by one, nothing is gathered. What is sent up may be held back until
//! the instance asks for it; what comes down gives its connection back at the end.

use std::{
    error, fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use openorch_chassis::{ClientBody, forwarded};
use tokio::time::{Sleep, sleep};

use crate::{
    connection::{Connection, Running},
    pool::{Instance, Sender},
};

/// The body of a request, on its way to an instance.
pub enum Upload {
    Empty,
    Streamed(Streamed),
}

pub struct Streamed {
    body: ClientBody,
    gate: Option<Gated>,
    /// An upload may outlast its answer.
    _running: Running,
}

struct Gated {
    gate: Arc<Gate>,
    patience: Pin<Box<Sleep>>,
}

impl Upload {
    pub fn new(body: ClientBody, gate: Option<(Arc<Gate>, Duration)>, connection: &Arc<Connection>) -> Upload {
        Upload::Streamed(Streamed {
            body,
            gate: gate.map(|(gate, patience)| Gated { gate, patience: Box::pin(sleep(patience)) }),
            _running: Running::begin(connection.clone()),
        })
    }
}

/// Why an upload ended early.
#[derive(Debug)]
pub enum UploadError {
    Client(hyper::Error),
    /// The answer came, and was complete, without the body.
    NotWanted,
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UploadError::Client(error) => write!(f, "reading the client's body: {error}"),
            UploadError::NotWanted => f.write_str("the instance answered without the body"),
        }
    }
}

impl error::Error for UploadError {}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Upload::Streamed(streamed) = self.get_mut() else {
            return Poll::Ready(None);
        };
        if let Some(gated) = &mut streamed.gate {
            match gated.gate.poll(cx) {
                State::Open => {}
                State::Shut if gated.patience.as_mut().poll(cx).is_ready() => gated.gate.open(),
                State::Shut => return Poll::Pending,
                State::NotWanted => return Poll::Ready(Some(Err(UploadError::NotWanted))),
            }
            streamed.gate = None;
        }
        let frame = ready!(Pin::new(&mut streamed.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame.map_err(UploadError::Client)?;
            if let Some(trailers) = frame.trailers_mut() {
                let reserved: Vec<_> = trailers.keys().filter(|n| forwarded::is_reserved(n)).cloned().collect();
                for name in reserved {
                    trailers.remove(name);
                }
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(gated) = &self.gate {
            gated.gate.dropped_unread();
        }
    }
}

/// Holds the body of a request with `Expect: 100-continue` back: reading it is what makes the client send it.
#[derive(Default)]
pub struct Gate {
    inner: Mutex<(State, Option<Waker>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Shut,
    Open,
    NotWanted,
}

impl Gate {
    /// The instance said 100, or has been answering for a while.
    pub fn open(&self) {
        self.become_(State::Open);
    }

    /// The answer is over; a body still held back is not wanted any more.
    pub fn close(&self) {
        self.become_(State::NotWanted);
    }

    fn become_(&self, state: State) {
        let mut inner = self.inner();
        if inner.0 == State::Shut {
            inner.0 = state;
            if let Some(waker) = inner.1.take() {
                drop(inner);
                waker.wake();
            }
        }
    }

    fn dropped_unread(&self) {
        self.inner().1 = None;
    }

    fn poll(&self, cx: &Context<'_>) -> State {
        let mut inner = self.inner();
        if inner.0 == State::Shut {
            inner.1 = Some(cx.waker().clone());
        }
        inner.0
    }

    fn inner(&self) -> MutexGuard<'_, (State, Option<Waker>)> {
        self.inner.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// Why an answer ended early.
pub type BoxError = Box<dyn error::Error + Send + Sync>;

/// The body of an answer, on its way to the client. Held until the last byte is written, so its end is the end of
/// the request.
pub struct Reply {
    kind: Kind,
    request: Request,
}

pub enum Kind {
    /// An answer of our own; taken when it is sent.
    Text(Bytes),
    Builtin(openorch_chassis::Body),
    Instance(FromInstance),
}

pub struct FromInstance {
    body: Incoming,
    ended: bool,
    gate: Option<Arc<Gate>>,
    lease: Option<Lease>,
}

/// A connection to an instance, in use.
pub struct Lease {
    pub instance: Arc<Instance>,
    pub sender: Sender,
    /// The request has a body, which may take longer than the answer.
    pub uploads: bool,
}

/// Counted while a request runs.
pub struct Request(Running);

impl Request {
    pub fn begin(connection: Arc<Connection>) -> Request {
        connection.gateway.metrics.in_flight.fetch_add(1, Relaxed);
        Request(Running::begin(connection))
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.0.0
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.connection().gateway.metrics.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Reply {
    pub fn new(kind: Kind, request: Request) -> Reply {
        Reply { kind, request }
    }
}

impl FromInstance {
    pub fn new(body: Incoming, lease: Lease, gate: Option<Arc<Gate>>) -> FromInstance {
        FromInstance { body, ended: false, gate, lease: Some(lease) }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().kind {
            Kind::Text(text) => {
                let text = std::mem::take(text);
                Poll::Ready((!text.is_empty()).then_some(Ok(Frame::data(text))))
            }
            Kind::Builtin(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?))),
            Kind::Instance(reply) => {
                // The head of the answer is written by now, so that reading the request's body no longer makes the
                // server say 100 on its own.
                if let Some(gate) = &reply.gate {
                    gate.open();
                }
                let frame = ready!(Pin::new(&mut reply.body).poll_frame(cx));
                reply.ended = frame.is_none();
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Text(text) => text.is_empty(),
            Kind::Builtin(body) => body.is_end_stream(),
            Kind::Instance(reply) => reply.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Text(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Builtin(body) => body.size_hint(),
            Kind::Instance(reply) => reply.body.size_hint(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Kind::Instance(reply) = &mut self.kind else {
            return;
        };
        if let Some(gate) = &reply.gate {
            gate.close();
        }
        // A body dropped early takes its connection with it: the rest of it is still to come.
        if (reply.ended || reply.body.is_end_stream())
            && let Some(lease) = reply.lease.take()
        {
            lease.give_back(self.request.connection());
        }
    }
}

impl Lease {
    fn give_back(mut self, connection: &Arc<Connection>) {
        let settle = |lease: Lease, connection: &Connection| {
            let now = connection.clock.now();
            lease.instance.give_back(lease.sender, now, &connection.gateway.settings);
        };
        if !self.uploads || self.sender.http.is_ready() {
            return settle(self, connection);
        }
        // The answer came before the body was all sent. Mostly the end of it is a moment away; if not, the
        // connection is of no use to others.
        let connection = connection.clone();
        tokio::spawn(async move {
            let ready = tokio::time::timeout(Duration::from_secs(1), self.sender.http.ready());
            if let Ok(Ok(())) = ready.await {
                settle(self, &connection);
            }
        });
    }
}
