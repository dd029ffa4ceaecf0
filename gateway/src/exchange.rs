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
    life::{Life, Order},
    pool::READ_BUFFER,
    table::Presence,
    untaken::Shares,
};

/// The value of a time that is not set.
const NOTHING_OFFERED: u64 = u64::MAX;

/// An exchange in progress.
pub struct Exchange {
    handle: Handle,
    /// In milliseconds of the server's clock, like all times here.
    began: u64,
    /// Since when data of the response waits for the client to read it.
    offered: AtomicU64,
    /// Since when the gateway waits for more of the request body.
    awaited: AtomicU64,
    is_answered: AtomicBool,
    /// Since when the response is complete or dropped, while the request body may still be sent.
    finished: AtomicU64,
    has_ended: AtomicBool,
    /// Wakes the task that forwards the request body.
    upload: AtomicWaker,
    /// The service that the request goes to, once known.
    service: OnceLock<Arc<Presence>>,
    /// The credential, if the request has a token of this daemon.
    credential: OnceLock<Credential>,
    /// Empty for an address that is exempt.
    shares: Shares,
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
pub enum Handle {
    /// Close the connection: HTTP/1 connections have one exchange at a time, and a tunnel has its own.
    Connection(Arc<Life>),
    /// Reset the HTTP/2 stream.
    Stream(Arc<Cancel>),
}

impl Handle {
    /// The handle of the request that the calling task serves, on this connection.
    pub fn current(connection: &Arc<Life>) -> Handle {
        match STREAM.try_with(Arc::clone) {
            Ok(stream) => Handle::Stream(stream),
            Err(_) => Handle::Connection(connection.clone()),
        }
    }
}

impl Exchange {
    pub fn new(handle: Handle, now: u64, shares: Shares, is_refused: bool) -> Exchange {
        Exchange {
            handle,
            began: now,
            offered: NOTHING_OFFERED.into(),
            awaited: NOTHING_OFFERED.into(),
            is_answered: AtomicBool::new(false),
            finished: NOTHING_OFFERED.into(),
            has_ended: AtomicBool::new(false),
            upload: AtomicWaker::new(),
            service: OnceLock::new(),
            credential: OnceLock::new(),
            shares,
            head_bytes: AtomicUsize::new(0),
            is_refused,
        }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Sets the size of the head of a request to a service.
    pub fn set_head(&self, bytes: usize) {
        if bytes > SMALL_HEAD {
            self.head_bytes.store(bytes, Relaxed);
        }
    }

    /// Milliseconds since which it holds memory: data of the response is unread, or a large head waits for a response.
    pub fn held_for(&self, now: u64) -> Option<u64> {
        let waits = self.head_bytes.load(Relaxed) > 0 && !self.is_answered.load(Relaxed);
        self.untaken_for(now).or(waits.then(|| self.age(now)))
    }

    /// Approximate memory of the response while it is unread, or of a large head that waits for a response.
    pub fn held_bytes(&self) -> usize {
        if !self.is_answered.load(Relaxed) {
            return HEAD_COPIES * self.head_bytes.load(Relaxed);
        }
        match self.handle {
            // Two pieces that were read, the read buffer and the write buffer, with the overhead of hyper and the allocator:
            // 1.0 to 1.1 MiB measured.
            Handle::Connection(_) => 4 * READ_BUFFER,
            // One piece is passed on at a time, and the next one is read after it was written.
            Handle::Stream(_) => 64 << 10,
        }
    }

    /// Whether it is an HTTP/2 stream.
    pub fn is_stream(&self) -> bool {
        matches!(self.handle, Handle::Stream(_))
    }

    pub fn set_service(&self, service: Arc<Presence>) {
        // Set once: a request goes to one service.
        let _ = self.service.set(service);
    }

    pub fn service(&self) -> Option<&Arc<Presence>> {
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
    pub fn await_body(&self, is_awaited: bool, now: u64) {
        let before = self.awaited.load(Relaxed);
        match is_awaited {
            true if before == NOTHING_OFFERED => self.awaited.store(now, Relaxed),
            false if before != NOTHING_OFFERED => self.awaited.store(NOTHING_OFFERED, Relaxed),
            _ => {}
        }
    }

    /// The response begins. From then on pauses in the request body are allowed: the protocol may be a dialogue.
    pub fn answer(&self, now: u64) {
        self.is_answered.store(true, Relaxed);
        self.offer(now);
    }

    /// Whether the client has exceeded the read timeout within a body that the instance needs for its response.
    pub fn is_silent(&self, now: u64, settings: &Settings) -> bool {
        let awaited = self.awaited.load(Relaxed);
        awaited != NOTHING_OFFERED
            && !self.is_answered.load(Relaxed)
            && u128::from(now.saturating_sub(awaited)) >= settings.forward.read_timeout.as_millis()
    }

    /// The response has ended. The rest of the request body has a short timeout.
    pub fn finish_answer(&self, now: u64) {
        self.finished.store(now, Relaxed);
        self.await_more();
    }

    /// Whether the request body continues beyond the linger timeout after the response.
    pub fn is_left_over(&self, now: u64, settings: &Settings) -> bool {
        let finished = self.finished.load(Relaxed);
        finished != NOTHING_OFFERED
            && u128::from(now.saturating_sub(finished)) >= settings.forward.linger_timeout.as_millis()
    }

    /// Whether it was aborted; else registers the task that forwards the request body for a wake-up.
    pub fn poll_ended(&self, cx: &Context<'_>) -> bool {
        self.upload.register(cx.waker());
        self.has_ended.load(Acquire)
    }

    /// Data of the response is ready for the client.
    pub fn offer(&self, now: u64) {
        self.offered.store(now, Relaxed);
    }

    /// No data is ready: the next piece has not arrived, or the response has ended.
    pub fn await_more(&self) {
        self.offered.store(NOTHING_OFFERED, Relaxed);
    }

    /// Whether the client has exceeded the write timeout.
    pub fn is_stalled(&self, now: u64, settings: &Settings) -> bool {
        let limit = match self.service.get() {
            Some(_) => settings.forward.write_timeout,
            None if self.is_refused => settings.http.write_timeout.min(REFUSAL_TIMEOUT),
            None => settings.http.write_timeout,
        };
        self.untaken_for(now).is_some_and(|time| u128::from(time) >= limit.as_millis())
    }

    /// Milliseconds since which ready data is unread.
    pub fn untaken_for(&self, now: u64) -> Option<u64> {
        let offered = self.offered.load(Relaxed);
        (offered != NOTHING_OFFERED).then(|| now.saturating_sub(offered))
    }

    /// Milliseconds since it began.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.began)
    }

    /// Aborts it. The client sees an incomplete response.
    pub fn end(&self) {
        self.has_ended.store(true, Release);
        self.upload.wake();
        match &self.handle {
            Handle::Connection(life) => life.give(Order::Stop),
            Handle::Stream(stream) => stream.cancel(),
        }
    }
}

/// Cancels a task.
#[derive(Default)]
pub struct Cancel {
    is_cancelled: AtomicBool,
    waker: AtomicWaker,
}

impl Cancel {
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
    static STREAM: Arc<Cancel>;
}

/// Runs each HTTP/2 stream as a task that can be cancelled: dropping it resets the stream without affecting the others of its
/// connection.
#[derive(Clone)]
pub struct StreamExecutor;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let cancel = Arc::new(Cancel::default());
        tokio::spawn(STREAM.scope(cancel.clone(), async move { cancel.run(stream).await }));
    }
}
