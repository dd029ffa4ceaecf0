//! Bodies on their way through: frames pass one by one, nothing is gathered. What is sent up may be held back until
//! the instance asks for it; what comes down gives its connection back at the end.

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
    clients::{self, Admission, ClientPlace, GivenUp, RequestPlace},
    connection::{Connection, Running},
    exchange::{Exchange, Handle},
    headers,
    life::Order,
    pool::{Instance, Sender},
    refusal::Refusal,
    request_log::EndedRequest,
    untaken::Share,
};

/// How long a request counts that was given up.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// The body of a request, on its way to an instance.
pub enum Upload {
    Empty,
    Streamed(Streamed),
}

pub struct Streamed {
    body: ClientBody,
    gate: Option<Gated>,
    /// An upload may outlast its answer, and is in progress until then.
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

/// Why an upload ended early.
#[derive(Debug)]
pub enum UploadError {
    Client(hyper::Error),
    /// The answer came, and was complete, without the body.
    NotWanted,
    /// The exchange was ended from outside.
    Ended,
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UploadError::Client(error) => write!(f, "reading the client's body: {error}"),
            UploadError::NotWanted => f.write_str("the instance answered without the body"),
            UploadError::Ended => f.write_str("the request was ended"),
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
    /// Over HTTP/2 alone.
    written: Option<Arc<Written>>,
    /// Whether a piece was handed over, over HTTP/2.
    has_sent: bool,
    /// Told of at the end.
    line: Option<Box<EndedRequest>>,
}

/// Whether the last frame of an HTTP/2 stream was written to the connection.
#[derive(Default)]
struct Written {
    is_pending: AtomicBool,
    waker: AtomicWaker,
}

/// The bytes of a frame until they are written.
struct Watched {
    bytes: Bytes,
    written: Arc<Written>,
}

impl Written {
    /// True if it was; else the task is woken when it is.
    fn poll(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        !self.is_pending.load(Acquire)
    }

    /// These bytes, which tell when they are written or given up.
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
    /// An answer of our own; taken when it is sent.
    Text(Bytes),
    Builtin(openorch_chassis::Body),
    Instance(FromInstance),
}

pub struct FromInstance {
    body: Incoming,
    /// What was read of it before its head was sent on.
    first: Option<Frame<Bytes>>,
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

/// Counted while a request is in progress, or its refusal is untaken: until the last copy is dropped.
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
    /// Called by the task that serves the request. The refusal, if any, says why there is no place for it.
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
        let share = |client: &ClientPlace| Share { network: client.network(), bytes: client.share(budget) };
        let share = connection.place.as_ref().map(share);
        let exchange = Arc::new(Exchange::new(handle, connection.clock.now(), share, refusal.is_some()));
        connection.life.enter(exchange.clone());
        let counted =
            Counted { running: Running::begin(connection), exchange: exchange.clone(), place: Arc::new(place) };
        (Request { exchange, counted: Arc::new(counted) }, refusal)
    }

    /// Its place, for what goes on working when the client leaves.
    pub fn place(&self) -> Place {
        Place(self.counted.place.clone())
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.counted.running.0
    }

    /// Its client gave it up before it was answered. A request to a service counts for a second in any case: the service
    /// has had a connection opened and cut for it.
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

    /// Reads the first piece, if it comes within `patience`: after that the answer's head is sent on, and what is wrong
    /// with the body could only be told by cutting it.
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
        // Over HTTP/2 the library takes a frame long before the client lets it send all of it. The next one, and the end,
        // come when this one is written: until then the exchange goes on, and can be ended when the client stalls.
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
        // What is sent over HTTP/2 ends with a frame of its own, once all is written.
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
            // Once a piece is read ahead the rest says too little; only bodies without a length are read ahead.
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
                // The head of the answer is written by now, so that reading the request's body no longer makes the
                // server say 100 on its own.
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
        // A body dropped early takes its connection with it: the rest of it is still to come.
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
