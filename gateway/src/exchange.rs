//! Exchanges: a request and its response in progress. An exchange tracks whether the client reads the response, the session
//! and service that it depends on, and can be aborted.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use openorch_chassis::Credential;

use crate::{
    Settings,
    conn_tracker::{ConnState, Shutdown},
    pool::READ_BUFFER,
    response_budget::MemoryQuotas,
    routing_table::ServiceEntry,
};

/// The value of a time that is not set.
const NOT_SET: u64 = u64::MAX;

/// An exchange in progress.
pub struct Exchange {
    handle: AbortHandle,
    /// In milliseconds of the server's clock, like all times here.
    started: u64,
    /// Since when data of the response waits for the client to read it.
    ready_since: AtomicU64,
    /// Since when the gateway waits for more of the request body.
    body_awaited_since: AtomicU64,
    is_answered: AtomicBool,
    /// Since when the response is complete or dropped, while the request body may still be sent.
    response_ended_at: AtomicU64,
    is_aborted: AtomicBool,
    /// Wakes the task that forwards the request body.
    body_waker: AtomicWaker,
    /// The service that the request goes to, once known.
    service: OnceLock<Arc<ServiceEntry>>,
    /// The credential, if the request has a token of this daemon.
    credential: OnceLock<Credential>,
    /// Empty for an address that is exempt.
    memory_quotas: MemoryQuotas,
    /// The bytes of the request head if it is large, else zero.
    head_bytes: AtomicUsize,
    /// Whether the request was refused by a concurrency limit; then its short response has a short timeout.
    is_refused: bool,
}

/// Request heads up to this size are not counted: the number of connections bounds their memory.
const SMALL_HEAD: usize = 4 << 10;
/// The memory of a head relative to its size: the read buffer, the write buffer and hyper's overhead (measured).
const HEAD_COPIES: usize = 3;

/// Write timeout of the response to a request that was refused by a concurrency limit.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How to abort an exchange.
pub enum AbortHandle {
    /// Close the connection: HTTP/1 connections have one exchange at a time, and a tunnel has its own.
    Connection(Arc<ConnState>),
    /// Reset the HTTP/2 stream.
    Stream(Arc<CancelToken>),
}

impl AbortHandle {
    /// The handle of the request that the calling task serves, on this connection.
    pub fn current(connection: &Arc<ConnState>) -> AbortHandle {
        match STREAM.try_with(Arc::clone) {
            Ok(stream) => AbortHandle::Stream(stream),
            Err(_) => AbortHandle::Connection(connection.clone()),
        }
    }
}

impl Exchange {
    pub fn new(handle: AbortHandle, now: u64, memory_quotas: MemoryQuotas, is_refused: bool) -> Exchange {
        Exchange {
            handle,
            started: now,
            ready_since: NOT_SET.into(),
            body_awaited_since: NOT_SET.into(),
            is_answered: AtomicBool::new(false),
            response_ended_at: NOT_SET.into(),
            is_aborted: AtomicBool::new(false),
            body_waker: AtomicWaker::new(),
            service: OnceLock::new(),
            credential: OnceLock::new(),
            memory_quotas,
            head_bytes: AtomicUsize::new(0),
            is_refused,
        }
    }

    pub fn memory_quotas(&self) -> &MemoryQuotas {
        &self.memory_quotas
    }

    /// Sets the size of the head of a request to a service.
    pub fn set_head_bytes(&self, bytes: usize) {
        if bytes > SMALL_HEAD {
            self.head_bytes.store(bytes, Relaxed);
        }
    }

    /// For how many milliseconds it has buffered data: unread response data, or a large head that waits for a response.
    pub fn buffered_for(&self, now: u64) -> Option<u64> {
        let waits = self.head_bytes.load(Relaxed) > 0 && !self.is_answered.load(Relaxed);
        self.unread_for(now).or(waits.then(|| self.age(now)))
    }

    /// Approximate memory of the response while it is unread, or of a large head that waits for a response.
    pub fn buffered_bytes(&self) -> usize {
        if !self.is_answered.load(Relaxed) {
            return HEAD_COPIES * self.head_bytes.load(Relaxed);
        }
        match self.handle {
            // Two pieces that were read, the read buffer and the write buffer, with the overhead of hyper and the allocator:
            // 1.0 to 1.1 MiB measured.
            AbortHandle::Connection(_) => 4 * READ_BUFFER,
            // One piece is passed on at a time, and the next one is read after it was written.
            AbortHandle::Stream(_) => 64 << 10,
        }
    }

    /// Whether it is an HTTP/2 stream.
    pub fn is_stream(&self) -> bool {
        matches!(self.handle, AbortHandle::Stream(_))
    }

    pub fn set_service(&self, service: Arc<ServiceEntry>) {
        // Set once: a request goes to one service.
        let _ = self.service.set(service);
    }

    pub fn service(&self) -> Option<&Arc<ServiceEntry>> {
        self.service.get()
    }

    pub fn set_credential(&self, credential: Credential) {
        // Set once: a request is authenticated once.
        let _ = self.credential.set(credential);
    }

    pub fn credential(&self) -> Option<&Credential> {
        self.credential.get()
    }

    /// Sets whether the gateway waits for more of the request body.
    pub fn set_body_awaited(&self, is_awaited: bool, now: u64) {
        let before = self.body_awaited_since.load(Relaxed);
        match is_awaited {
            true if before == NOT_SET => self.body_awaited_since.store(now, Relaxed),
            false if before != NOT_SET => self.body_awaited_since.store(NOT_SET, Relaxed),
            _ => {}
        }
    }

    /// The response begins. From then on pauses in the request body are allowed: the protocol may be a dialogue.
    pub fn start_response(&self, now: u64) {
        self.is_answered.store(true, Relaxed);
        self.data_ready(now);
    }

    /// Whether the client has exceeded the read timeout within a body that the instance needs for its response.
    pub fn is_body_stalled(&self, now: u64, settings: &Settings) -> bool {
        let awaited = self.body_awaited_since.load(Relaxed);
        awaited != NOT_SET
            && !self.is_answered.load(Relaxed)
            && u128::from(now.saturating_sub(awaited)) >= settings.forward.read_timeout.as_millis()
    }

    /// The response has ended. The rest of the request body has a short timeout.
    pub fn finish_response(&self, now: u64) {
        self.response_ended_at.store(now, Relaxed);
        self.no_data_ready();
    }

    /// Whether the request body continues beyond the linger timeout after the response.
    pub fn is_lingering(&self, now: u64, settings: &Settings) -> bool {
        let finished = self.response_ended_at.load(Relaxed);
        finished != NOT_SET && u128::from(now.saturating_sub(finished)) >= settings.forward.linger_timeout.as_millis()
    }

    /// Whether it was aborted; else registers the task that forwards the request body for a wake-up.
    pub fn poll_aborted(&self, cx: &Context<'_>) -> bool {
        self.body_waker.register(cx.waker());
        self.is_aborted.load(Acquire)
    }

    /// Data of the response is ready for the client.
    pub fn data_ready(&self, now: u64) {
        self.ready_since.store(now, Relaxed);
    }

    /// No data is ready: the next piece has not arrived, or the response has ended.
    pub fn no_data_ready(&self) {
        self.ready_since.store(NOT_SET, Relaxed);
    }

    /// Whether the client has exceeded the write timeout.
    pub fn is_response_stalled(&self, now: u64, settings: &Settings) -> bool {
        let limit = match self.service.get() {
            Some(_) => settings.forward.write_timeout,
            None if self.is_refused => settings.http.write_timeout.min(REFUSAL_TIMEOUT),
            None => settings.http.write_timeout,
        };
        self.unread_for(now).is_some_and(|time| u128::from(time) >= limit.as_millis())
    }

    /// For how many milliseconds ready data has been unread.
    pub fn unread_for(&self, now: u64) -> Option<u64> {
        let offered = self.ready_since.load(Relaxed);
        (offered != NOT_SET).then(|| now.saturating_sub(offered))
    }

    /// Milliseconds since it began.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.started)
    }

    /// Aborts it. The client sees an incomplete response.
    pub fn abort(&self) {
        self.is_aborted.store(true, Release);
        self.body_waker.wake();
        match &self.handle {
            AbortHandle::Connection(life) => life.signal(Shutdown::Immediate),
            AbortHandle::Stream(stream) => stream.cancel(),
        }
    }
}

/// Cancels a task.
#[derive(Default)]
pub struct CancelToken {
    is_cancelled: AtomicBool,
    waker: AtomicWaker,
}

impl CancelToken {
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Release);
        self.waker.wake();
    }

    /// Runs `work` until it completes or is cancelled.
    async fn run(&self, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            match self.is_cancelled.load(Acquire) {
                true => Poll::Ready(()),
                false => work.as_mut().poll(cx),
            }
        })
        .await;
    }
}

tokio::task_local! {
    /// The HTTP/2 stream that the task serves.
    static STREAM: Arc<CancelToken>;
}

/// Runs each HTTP/2 stream as a task that can be cancelled: dropping it resets the stream without affecting the others of its
/// connection.
#[derive(Clone)]
pub struct StreamExecutor;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let cancel = Arc::new(CancelToken::default());
        tokio::spawn(STREAM.scope(cancel.clone(), async move { cancel.run(stream).await }));
    }
}
