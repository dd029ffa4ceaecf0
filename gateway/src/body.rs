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
use openorch_chassis::{ClientBody, in_flight::InFlightGuard};
use tokio::time::{Sleep, sleep, timeout};

use crate::{
    client_limits::{self, AbandonedRequest, Admission, RequestSlot},
    conn_tracker::Shutdown,
    connection::{Connection, RunningGuard},
    exchange::{AbortHandle, Exchange},
    headers,
    pool::{Upstream, UpstreamConn},
    refusal::Refusal,
    request_log::CompletedRequest,
};

/// How long an abandoned request counts in the limits.
const ABANDONED_WINDOW: Duration = Duration::from_secs(1);

/// The body of a request to an instance.
pub enum RequestBody {
    Empty,
    Streamed(Streamed),
}

pub struct Streamed {
    body: ClientBody,
    gate: Option<GateWait>,
    /// Keeps the request in progress until the body has been sent, which may be after the response.
    request: RequestGuard,
}

struct GateWait {
    gate: Arc<ContinueGate>,
    deadline: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub fn new(body: ClientBody, gate: Option<(Arc<ContinueGate>, Duration)>, request: &RequestGuard) -> RequestBody {
        RequestBody::Streamed(Streamed {
            body,
            gate: gate.map(|(gate, patience)| GateWait { gate, deadline: Box::pin(sleep(patience)) }),
            request: request.clone(),
        })
    }
}

/// Why a request body ended early.
#[derive(Debug)]
pub enum RequestBodyError {
    Client(hyper::Error),
    /// The response was completed without the body.
    NotWanted,
    /// The exchange was aborted.
    Aborted,
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestBodyError::Client(error) => write!(f, "reading the client's body: {error}"),
            RequestBodyError::NotWanted => f.write_str("the instance answered without the body"),
            RequestBodyError::Aborted => f.write_str("the request was aborted"),
        }
    }
}

impl error::Error for RequestBodyError {}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let RequestBody::Streamed(streamed) = self.get_mut() else {
            return Poll::Ready(None);
        };
        if streamed.request.exchange.poll_aborted(cx) {
            return Poll::Ready(Some(Err(RequestBodyError::Aborted)));
        }
        if let Some(gated) = &mut streamed.gate {
            match gated.gate.poll(cx) {
                GateState::Open => {}
                GateState::Closed if gated.deadline.as_mut().poll(cx).is_ready() => gated.gate.open(),
                GateState::Closed => return Poll::Pending,
                GateState::NotWanted => return Poll::Ready(Some(Err(RequestBodyError::NotWanted))),
            }
            streamed.gate = None;
        }
        let frame = Pin::new(&mut streamed.body).poll_frame(cx);
        let now = streamed.request.connection().clock.now();
        streamed.request.exchange.set_body_awaited(frame.is_pending(), now);
        let frame = ready!(frame);
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame.map_err(RequestBodyError::Client)?;
            if let Some(trailers) = frame.trailers_mut() {
                headers::strip_trailers(trailers);
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(gated) = &self.gate {
            gated.gate.clear_waker();
        }
    }
}

/// Delays reading the body of a request with `Expect: 100-continue`, since reading it makes hyper send `100 Continue`.
#[derive(Default)]
pub struct ContinueGate {
    inner: Mutex<(GateState, Option<Waker>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Closed,
    Open,
    NotWanted,
}

impl ContinueGate {
    /// The instance sent `100 Continue` or its final response.
    pub fn open(&self) {
        self.set_state(GateState::Open);
    }

    /// The response has ended, so a delayed body is not wanted any more.
    pub fn close(&self) {
        self.set_state(GateState::NotWanted);
    }

    fn set_state(&self, state: GateState) {
        let mut inner = self.inner();
        if inner.0 == GateState::Closed {
            inner.0 = state;
            if let Some(waker) = inner.1.take() {
                drop(inner);
                waker.wake();
            }
        }
    }

    fn clear_waker(&self) {
        self.inner().1 = None;
    }

    fn poll(&self, cx: &Context<'_>) -> GateState {
        let mut inner = self.inner();
        if inner.0 == GateState::Closed {
            inner.1 = Some(cx.waker().clone());
        }
        inner.0
    }

    fn inner(&self) -> MutexGuard<'_, (GateState, Option<Waker>)> {
        self.inner.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// Why a response ended early.
pub type BoxError = Box<dyn error::Error + Send + Sync>;

/// The body of a response to a client. It is dropped after the last byte was written, which ends the request.
pub struct ResponseBody {
    kind: ResponseBodyKind,
    request: RequestGuard,
    /// For HTTP/2 only.
    written: Option<Arc<FrameWriteState>>,
    /// For HTTP/2: whether a piece was passed to the connection.
    has_sent: bool,
    /// Published at the end.
    completed: Option<Box<CompletedRequest>>,
}

/// Tracks whether the last frame of an HTTP/2 stream was written to the connection.
#[derive(Default)]
struct FrameWriteState {
    is_pending: AtomicBool,
    waker: AtomicWaker,
}

/// The bytes of a frame, dropped after they were written.
struct TrackedBytes {
    bytes: Bytes,
    written: Arc<FrameWriteState>,
}

impl FrameWriteState {
    /// Whether it was written; else registers the task for a wake-up.
    fn poll(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        !self.is_pending.load(Acquire)
    }

    /// Wraps bytes to detect when they are written or dropped.
    fn track(self: &Arc<FrameWriteState>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.is_pending.store(true, Release);
        Bytes::from_owner(TrackedBytes { bytes, written: self.clone() })
    }
}

impl AsRef<[u8]> for TrackedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for TrackedBytes {
    fn drop(&mut self) {
        self.written.is_pending.store(false, Release);
        self.written.waker.wake();
    }
}

pub enum ResponseBodyKind {
    /// A response of the gateway itself; taken when it is sent.
    Text(Bytes),
    Builtin(openorch_chassis::Body),
    Instance(UpstreamBody),
}

pub struct UpstreamBody {
    body: Incoming,
    /// The frame that was read before the head was sent.
    prefetched: Option<Frame<Bytes>>,
    ended: bool,
    gate: Option<Arc<ContinueGate>>,
    conn: Option<PooledConn>,
}

/// A connection to an instance, checked out of the pool.
pub struct PooledConn {
    pub instance: Arc<Upstream>,
    pub sender: UpstreamConn,
    /// Whether the request has a body, which may take longer than the response.
    pub has_body: bool,
}

/// Keeps a request counted while it is in progress, or its refusal is unread: until the last clone is dropped.
#[derive(Clone)]
pub struct RequestGuard {
    pub exchange: Arc<Exchange>,
    counted: Arc<RequestGuardInner>,
}

struct RequestGuardInner {
    running: RunningGuard,
    exchange: Arc<Exchange>,
    slot: Arc<RequestSlot>,
}

impl RequestGuard {
    /// Must be called by the task that serves the request. Returns a refusal if a limit is reached.
    pub fn begin(
        connection: Arc<Connection>,
        headers: &HeaderMap,
        is_builtin: bool,
    ) -> (RequestGuard, Option<Refusal>) {
        let gateway = &connection.gateway;
        let behind_proxy = connection.forwarded.client_behind_proxy(headers);
        let Admission { slot: place, refusal, is_flood } = client_limits::admit(
            connection.client_slot.as_ref(),
            behind_proxy,
            is_builtin,
            &gateway.metrics,
            &gateway.settings,
        );
        if is_flood {
            connection.state.signal(Shutdown::Immediate);
        }
        let handle = AbortHandle::current(&connection.state);
        let budget = *gateway.settings.forward.max_response_memory;
        let client = connection.client_slot.as_ref();
        let quotas = client_limits::memory_quotas(client, behind_proxy, budget, &gateway.settings);
        let exchange = Arc::new(Exchange::new(handle, connection.clock.now(), quotas, refusal.is_some()));
        connection.state.add_exchange(exchange.clone());
        let counted = RequestGuardInner {
            running: RunningGuard::begin(connection),
            exchange: exchange.clone(),
            slot: Arc::new(place),
        };
        (RequestGuard { exchange, counted: Arc::new(counted) }, refusal)
    }

    /// Its slot, for work that continues after a disconnect of the client.
    pub fn in_flight(&self) -> InFlightGuard {
        InFlightGuard(self.counted.slot.clone())
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.counted.running.0
    }

    /// The client disconnected before the response. A request to a service keeps its slot for at least a second: it has cost
    /// the service a connection.
    pub fn mark_abandoned(&self) {
        let age = Duration::from_millis(self.exchange.age(self.connection().clock.now()));
        let Some(rest) = ABANDONED_WINDOW.checked_sub(age) else { return };
        let abandoned = AbandonedRequest::of(self.counted.slot.clone());
        tokio::spawn(async move {
            sleep(rest).await;
            drop(abandoned);
        });
    }
}

impl Drop for RequestGuardInner {
    fn drop(&mut self) {
        self.running.0.state.remove_exchange(&self.exchange);
    }
}

impl ResponseBody {
    pub fn new(kind: ResponseBodyKind, request: RequestGuard, line: Option<Box<CompletedRequest>>) -> ResponseBody {
        request.exchange.start_response(request.connection().clock.now());
        let written = request.exchange.is_stream().then(Arc::default);
        ResponseBody { kind, request, written, has_sent: false, completed: line }
    }
}

impl UpstreamBody {
    pub fn new(body: Incoming, lease: PooledConn, gate: Option<Arc<ContinueGate>>) -> UpstreamBody {
        UpstreamBody { body, prefetched: None, ended: false, gate, conn: Some(lease) }
    }

    /// Reads the first frame if it arrives within `patience`. Once the head is sent, an invalid body could only be signalled
    /// by closing the connection.
    pub async fn prefetch(&mut self, patience: Duration) -> hyper::Result<()> {
        let Ok(first) = timeout(patience, self.body.frame()).await else { return Ok(()) };
        self.prefetched = first.transpose()?;
        self.ended = self.prefetched.is_none();
        Ok(())
    }
}

impl Body for ResponseBody {
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
            this.request.connection().state.count_response_head(trailers);
        }
        if let (Some(line), Poll::Ready(Some(Ok(frame)))) = (&mut this.completed, &polled) {
            line.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        if let (Some(written), Poll::Ready(Some(Ok(frame)))) = (&this.written, &mut polled)
            && let Some(data) = frame.data_mut()
        {
            *data = written.track(std::mem::take(data));
            this.has_sent = true;
        }
        match &polled {
            Poll::Ready(Some(Ok(_))) => this.request.exchange.data_ready(this.request.connection().clock.now()),
            _ => this.request.exchange.no_data_ready(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // An HTTP/2 body ends with a separate frame, once all data was written.
        !self.has_sent
            && match &self.kind {
                ResponseBodyKind::Text(text) => text.is_empty(),
                ResponseBodyKind::Builtin(body) => body.is_end_stream(),
                ResponseBodyKind::Instance(reply) => reply.has_ended(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseBodyKind::Text(text) => SizeHint::with_exact(text.len() as u64),
            ResponseBodyKind::Builtin(body) => body.size_hint(),
            // After a prefetched frame the hint of the rest is too small. Only bodies without a length are prefetched.
            ResponseBodyKind::Instance(reply) if reply.prefetched.is_some() => SizeHint::default(),
            ResponseBodyKind::Instance(reply) => reply.body.size_hint(),
        }
    }
}

impl UpstreamBody {
    fn has_ended(&self) -> bool {
        self.prefetched.is_none() && (self.ended || self.body.is_end_stream())
    }
}

impl ResponseBodyKind {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            ResponseBodyKind::Text(text) => {
                let text = std::mem::take(text);
                Poll::Ready((!text.is_empty()).then_some(Ok(Frame::data(text))))
            }
            ResponseBodyKind::Builtin(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?))),
            ResponseBodyKind::Instance(reply) => {
                // The response head has been written, so that reading the request body no longer makes hyper send
                // `100 Continue`.
                if let Some(gate) = &reply.gate {
                    gate.open();
                }
                if let Some(first) = reply.prefetched.take() {
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
                        headers::strip_trailers(trailers);
                    }
                    Ok(frame)
                }))
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.request.exchange.finish_response(self.request.connection().clock.now());
        if let Some(line) = &self.completed {
            line.publish();
        }
        let ResponseBodyKind::Instance(reply) = &mut self.kind else {
            return;
        };
        if let Some(gate) = &reply.gate {
            gate.close();
        }
        // The connection of a body that was dropped early cannot be reused: the rest of the body is still to come.
        if reply.has_ended()
            && let Some(lease) = reply.conn.take()
        {
            lease.release(self.request.connection());
        }
    }
}

impl PooledConn {
    fn release(mut self, connection: &Arc<Connection>) {
        let return_to_pool = |lease: PooledConn, connection: &Connection| {
            let now = connection.clock.now();
            lease.instance.release(lease.sender, now, &connection.gateway.settings);
        };
        if !self.has_body || self.sender.http.is_ready() {
            return return_to_pool(self, connection);
        }
        // The response came before the whole request body was sent. Usually the rest follows in a moment; if not, the
        // connection is closed.
        let connection = connection.clone();
        tokio::spawn(async move {
            let ready = tokio::time::timeout(Duration::from_secs(1), self.sender.http.ready());
            if let Ok(Ok(())) = ready.await {
                return_to_pool(self, &connection);
            }
        });
    }
}
