//! Proxied bodies, streamed frame by frame. A request body can wait for `100 Continue` of the instance; a response body
//! returns its connection to the pool at its end.

use std::{
    error, fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use openorch_chassis::{ClientBody, place::Place};
use tokio::time::{Sleep, sleep, timeout};

use crate::{
    clients::{self, Admission, GivenUp, RequestPlace},
    connection::{Connection, Running},
    exchange::{Exchange, Handle},
    headers,
    life::Order,
    pool::{Instance, Sender},
    refusal::Refusal,
    request_log::EndedRequest,
};

/// How long an abandoned request counts in the limits.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// The body of a request to an instance.
pub enum Upload {
    Empty,
    Streamed(Streamed),
}

pub struct Streamed {
    body: ClientBody,
    gate: Option<Gated>,
    /// Keeps the request in progress until the body has been sent, which may be after the response.
    request: Request,
}

struct Gated {
    gate: Arc<Gate>,
    patience: Pin<Box<Sleep>>,
}

impl Upload {
    pub fn new(body: ClientBody, gate: Option<(Arc<Gate>, Duration)>, request: &Request) -> Upload {
        Upload::Streamed(Streamed {
            body,
            gate: gate.map(|(gate, patience)| Gated { gate, patience: Box::pin(sleep(patience)) }),
            request: request.clone(),
        })
    }
}

/// Why a request body ended early.
#[derive(Debug)]
pub enum UploadError {
    Client(hyper::Error),
    /// The response was completed without the body.
    NotWanted,
    /// The exchange was aborted.
    Ended,
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UploadError::Client(error) => write!(f, "reading the client's body: {error}"),
            UploadError::NotWanted => f.write_str("the instance answered without the body"),
            UploadError::Ended => f.write_str("the request was aborted"),
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
        if streamed.request.exchange.poll_ended(cx) {
            return Poll::Ready(Some(Err(UploadError::Ended)));
        }
        if let Some(gated) = &mut streamed.gate {
            match gated.gate.poll(cx) {
                State::Open => {}
                State::Shut if gated.patience.as_mut().poll(cx).is_ready() => gated.gate.open(),
                State::Shut => return Poll::Pending,
                State::NotWanted => return Poll::Ready(Some(Err(UploadError::NotWanted))),
            }
            streamed.gate = None;
        }
        let frame = Pin::new(&mut streamed.body).poll_frame(cx);
        let now = streamed.request.connection().clock.now();
        streamed.request.exchange.await_body(frame.is_pending(), now);
        let frame = ready!(frame);
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame.map_err(UploadError::Client)?;
            if let Some(trailers) = frame.trailers_mut() {
                headers::clean_trailers(trailers);
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

/// Delays reading the body of a request with `Expect: 100-continue`, since reading it makes hyper send `100 Continue`.
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
    /// The instance sent `100 Continue` or its final response.
    pub fn open(&self) {
        self.become_(State::Open);
    }

    /// The response has ended, so a delayed body is not wanted any more.
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

/// Why a response ended early.
pub type BoxError = Box<dyn error::Error + Send + Sync>;

/// The body of a response to a client. It is dropped after the last byte was written, which ends the request.
pub struct Reply {
    kind: Kind,
    request: Request,
    /// For HTTP/2 only.
    written: Option<Arc<Written>>,
    /// For HTTP/2: whether a piece was passed to the connection.
    has_sent: bool,
    /// Published at the end.
    line: Option<Box<EndedRequest>>,
}

/// Tracks whether the last frame of an HTTP/2 stream was written to the connection.
#[derive(Default)]
struct Written {
    is_pending: AtomicBool,
    waker: AtomicWaker,
}

/// The bytes of a frame, dropped after they were written.
struct Watched {
    bytes: Bytes,
    written: Arc<Written>,
}

impl Written {
    /// Whether it was written; else registers the task for a wake-up.
    fn poll(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        !self.is_pending.load(Acquire)
    }

    /// Wraps bytes to detect when they are written or dropped.
    fn watch(self: &Arc<Written>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.is_pending.store(true, Release);
        Bytes::from_owner(Watched { bytes, written: self.clone() })
    }
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.written.is_pending.store(false, Release);
        self.written.waker.wake();
    }
}

pub enum Kind {
    /// A response of the gateway itself; taken when it is sent.
    Text(Bytes),
    Builtin(openorch_chassis::Body),
    Instance(FromInstance),
}

pub struct FromInstance {
    body: Incoming,
    /// The frame that was read before the head was sent.
    first: Option<Frame<Bytes>>,
    ended: bool,
    gate: Option<Arc<Gate>>,
    lease: Option<Lease>,
}

/// A connection to an instance, checked out of the pool.
pub struct Lease {
    pub instance: Arc<Instance>,
    pub sender: Sender,
    /// Whether the request has a body, which may take longer than the response.
    pub uploads: bool,
}

/// Keeps a request counted while it is in progress, or its refusal is unread: until the last clone is dropped.
#[derive(Clone)]
pub struct Request {
    pub exchange: Arc<Exchange>,
    counted: Arc<Counted>,
}

struct Counted {
    running: Running,
    exchange: Arc<Exchange>,
    place: Arc<RequestPlace>,
}

impl Request {
    /// Must be called by the task that serves the request. Returns a refusal if a limit is reached.
    pub fn begin(connection: Arc<Connection>, headers: &HeaderMap, is_builtin: bool) -> (Request, Option<Refusal>) {
        let gateway = &connection.gateway;
        let behind_proxy = connection.hop.client_behind_proxy(headers);
        let Admission { place, refusal, is_flood } =
            clients::admit(connection.place.as_ref(), behind_proxy, is_builtin, &gateway.metrics, &gateway.settings);
        if is_flood {
            connection.life.give(Order::Stop);
        }
        let handle = Handle::current(&connection.life);
        let budget = *gateway.settings.forward.max_response_memory;
        let shares = clients::shares(connection.place.as_ref(), behind_proxy, budget, &gateway.settings);
        let exchange = Arc::new(Exchange::new(handle, connection.clock.now(), shares, refusal.is_some()));
        connection.life.enter(exchange.clone());
        let counted =
            Counted { running: Running::begin(connection), exchange: exchange.clone(), place: Arc::new(place) };
        (Request { exchange, counted: Arc::new(counted) }, refusal)
    }

    /// Its slot, for work that continues after a disconnect of the client.
    pub fn place(&self) -> Place {
        Place(self.counted.place.clone())
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.counted.running.0
    }

    /// The client disconnected before the response. A request to a service keeps its slot for at least a second: it has cost
    /// the service a connection.
    pub fn give_up(&self) {
        let age = Duration::from_millis(self.exchange.age(self.connection().clock.now()));
        let Some(rest) = GIVEN_UP.checked_sub(age) else { return };
        let given_up = GivenUp::of(self.counted.place.clone());
        tokio::spawn(async move {
            sleep(rest).await;
            drop(given_up);
        });
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.running.0.life.leave(&self.exchange);
    }
}

impl Reply {
    pub fn new(kind: Kind, request: Request, line: Option<Box<EndedRequest>>) -> Reply {
        request.exchange.answer(request.connection().clock.now());
        let written = request.exchange.is_stream().then(Arc::default);
        Reply { kind, request, written, has_sent: false, line }
    }
}

impl FromInstance {
    pub fn new(body: Incoming, lease: Lease, gate: Option<Arc<Gate>>) -> FromInstance {
        FromInstance { body, first: None, ended: false, gate, lease: Some(lease) }
    }

    /// Reads the first frame if it arrives within `patience`. Once the head is sent, an invalid body could only be signalled
    /// by closing the connection.
    pub async fn read_first(&mut self, patience: Duration) -> hyper::Result<()> {
        let Ok(first) = timeout(patience, self.body.frame()).await else { return Ok(()) };
        self.first = first.transpose()?;
        self.ended = self.first.is_none();
        Ok(())
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // Over HTTP/2 hyper accepts a frame long before flow control lets it send all of it. The next frame, and the end, are
        // returned after it was written: until then the exchange stays in progress and can be aborted if the client stalls.
        if let Some(written) = &this.written
            && !written.poll(cx)
        {
            return Poll::Pending;
        }
        let mut polled = this.kind.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            this.request.connection().life.answer(trailers);
        }
        if let (Some(line), Poll::Ready(Some(Ok(frame)))) = (&mut this.line, &polled) {
            line.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        if let (Some(written), Poll::Ready(Some(Ok(frame)))) = (&this.written, &mut polled)
            && let Some(data) = frame.data_mut()
        {
            *data = written.watch(std::mem::take(data));
            this.has_sent = true;
        }
        match &polled {
            Poll::Ready(Some(Ok(_))) => this.request.exchange.offer(this.request.connection().clock.now()),
            _ => this.request.exchange.await_more(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // An HTTP/2 body ends with a separate frame, once all data was written.
        !self.has_sent
            && match &self.kind {
                Kind::Text(text) => text.is_empty(),
                Kind::Builtin(body) => body.is_end_stream(),
                Kind::Instance(reply) => reply.is_over(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Text(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Builtin(body) => body.size_hint(),
            // After a prefetched frame the hint of the rest is too small. Only bodies without a length are prefetched.
            Kind::Instance(reply) if reply.first.is_some() => SizeHint::default(),
            Kind::Instance(reply) => reply.body.size_hint(),
        }
    }
}

impl FromInstance {
    fn is_over(&self) -> bool {
        self.first.is_none() && (self.ended || self.body.is_end_stream())
    }
}

impl Kind {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Kind::Text(text) => {
                let text = std::mem::take(text);
                Poll::Ready((!text.is_empty()).then_some(Ok(Frame::data(text))))
            }
            Kind::Builtin(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?))),
            Kind::Instance(reply) => {
                // The response head has been written, so that reading the request body no longer makes hyper send
                // `100 Continue`.
                if let Some(gate) = &reply.gate {
                    gate.open();
                }
                if let Some(first) = reply.first.take() {
                    return Poll::Ready(Some(Ok(first)));
                }
                if reply.ended {
                    return Poll::Ready(None);
                }
                let frame = ready!(Pin::new(&mut reply.body).poll_frame(cx));
                reply.ended = frame.is_none();
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame?;
                    if let Some(trailers) = frame.trailers_mut() {
                        headers::clean_trailers(trailers);
                    }
                    Ok(frame)
                }))
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.request.exchange.finish_answer(self.request.connection().clock.now());
        if let Some(line) = &self.line {
            line.tell();
        }
        let Kind::Instance(reply) = &mut self.kind else {
            return;
        };
        if let Some(gate) = &reply.gate {
            gate.close();
        }
        // The connection of a body that was dropped early cannot be reused: the rest of the body is still to come.
        if reply.is_over()
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
        // The response came before the whole request body was sent. Usually the rest follows in a moment; if not, the
        // connection is closed.
        let connection = connection.clone();
        tokio::spawn(async move {
            let ready = tokio::time::timeout(Duration::from_secs(1), self.sender.http.ready());
            if let Ok(Ok(())) = ready.await {
                settle(self, &connection);
            }
        });
    }
}
