//! One request and its answer while they are in progress: whether the client takes the answer, which session and service
//! they depend on, and how they are ended from outside.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
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
    untaken::Share,
};

/// No piece of the answer waits for the client.
const NOTHING_OFFERED: u64 = u64::MAX;

/// An exchange in progress.
pub struct Exchange {
    handle: Handle,
    /// In milliseconds of the server's clock, like all times here.
    began: u64,
    /// Since when a piece of the answer waits for the client to take it.
    offered: AtomicU64,
    /// Since when more of the request's body is awaited.
    awaited: AtomicU64,
    is_answered: AtomicBool,
    /// Since when the answer is complete, or given up, while the request's body goes on.
    finished: AtomicU64,
    has_ended: AtomicBool,
    /// The task that sends the request's body on.
    upload: AtomicWaker,
    /// The service that the request goes to, once that is known.
    service: OnceLock<Arc<Presence>>,
    /// That of a token of ours, if it carries one.
    credential: OnceLock<Credential>,
    /// `None` for an address that is exempt.
    share: Option<Share>,
    /// For want of a place. Its short answer is not worth waiting for long.
    is_refused: bool,
}

/// How long a client may leave the refusal of a request untaken for which there was no place.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What ends it.
pub enum Handle {
    /// Over HTTP/1 an exchange has the connection to itself, and a tunnel is one of its own.
    Connection(Arc<Life>),
    /// Over HTTP/2 it is one stream of many.
    Stream(Arc<Cancel>),
}

impl Handle {
    /// Of the request that is being served by the calling task, on this connection.
    pub fn current(connection: &Arc<Life>) -> Handle {
        match STREAM.try_with(Arc::clone) {
            Ok(stream) => Handle::Stream(stream),
            Err(_) => Handle::Connection(connection.clone()),
        }
    }
}

impl Exchange {
    pub fn new(handle: Handle, now: u64, share: Option<Share>, is_refused: bool) -> Exchange {
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
            share,
            is_refused,
        }
    }

    pub fn share(&self) -> Option<Share> {
        self.share
    }

    /// About what its answer holds while it is untaken.
    pub fn held_bytes(&self) -> usize {
        match self.handle {
            // Two pieces as they were read, the buffer that is read into, and what is to be written, with what the library
            // and the allocator add: 1.0 to 1.1 MiB were measured.
            Handle::Connection(_) => 4 * READ_BUFFER,
            // One piece is handed over at a time, and reading goes on when it is written.
            Handle::Stream(_) => 64 << 10,
        }
    }

    /// Whether it is one stream of many on its connection.
    pub fn is_stream(&self) -> bool {
        matches!(self.handle, Handle::Stream(_))
    }

    pub fn set_service(&self, service: Arc<Presence>) {
        // A request goes to one service.
        let _ = self.service.set(service);
    }

    pub fn service(&self) -> Option<&Arc<Presence>> {
        self.service.get()
    }

    pub fn set_credential(&self, credential: Credential) {
        // A request is authenticated once.
        let _ = self.credential.set(credential);
    }

    pub fn credential(&self) -> Option<&Credential> {
        self.credential.get()
    }

    /// More of the request's body is to come from the client, or came.
    pub fn await_body(&self, is_awaited: bool, now: u64) {
        let before = self.awaited.load(Relaxed);
        match is_awaited {
            true if before == NOTHING_OFFERED => self.awaited.store(now, Relaxed),
            false if before != NOTHING_OFFERED => self.awaited.store(NOTHING_OFFERED, Relaxed),
            _ => {}
        }
    }

    /// The answer begins. From then on the client may be silent: both sides may speak by turns.
    pub fn answer(&self, now: u64) {
        self.is_answered.store(true, Relaxed);
        self.offer(now);
    }

    /// Whether the client sends no more of a body for which the instance waits, so that it may never answer.
    pub fn is_silent(&self, now: u64, settings: &Settings) -> bool {
        let awaited = self.awaited.load(Relaxed);
        awaited != NOTHING_OFFERED
            && !self.is_answered.load(Relaxed)
            && u128::from(now.saturating_sub(awaited)) >= settings.forward.read_timeout.as_millis()
    }

    /// The answer is over. What is left of the request's body is of little use.
    pub fn finish_answer(&self, now: u64) {
        self.finished.store(now, Relaxed);
        self.await_more();
    }

    /// Whether the request's body goes on though the answer was over long ago.
    pub fn is_left_over(&self, now: u64, settings: &Settings) -> bool {
        let finished = self.finished.load(Relaxed);
        finished != NOTHING_OFFERED
            && u128::from(now.saturating_sub(finished)) >= settings.forward.linger_timeout.as_millis()
    }

    /// Whether it was ended from outside; else the task that sends the request's body on is woken when it is.
    pub fn poll_ended(&self, cx: &Context<'_>) -> bool {
        self.upload.register(cx.waker());
        self.has_ended.load(Acquire)
    }

    /// A piece of the answer is there for the client to take.
    pub fn offer(&self, now: u64) {
        self.offered.store(now, Relaxed);
    }

    /// There is nothing to take: the next piece is still to come, or there is none.
    pub fn await_more(&self) {
        self.offered.store(NOTHING_OFFERED, Relaxed);
    }

    /// Whether the client has left a piece of the answer for longer than it may.
    pub fn is_stalled(&self, now: u64, settings: &Settings) -> bool {
        let limit = match self.service.get() {
            Some(_) => settings.forward.write_timeout,
            None if self.is_refused => settings.http.write_timeout.min(REFUSAL_TIMEOUT),
            None => settings.http.write_timeout,
        };
        self.untaken_for(now).is_some_and(|time| u128::from(time) >= limit.as_millis())
    }

    /// Milliseconds for which the client has left a piece of the answer.
    pub fn untaken_for(&self, now: u64) -> Option<u64> {
        let offered = self.offered.load(Relaxed);
        (offered != NOTHING_OFFERED).then(|| now.saturating_sub(offered))
    }

    /// In milliseconds.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.began)
    }

    /// Ends it at once: what the client has of the answer is incomplete, and it can tell.
    pub fn end(&self) {
        self.has_ended.store(true, Release);
        self.upload.wake();
        match &self.handle {
            Handle::Connection(life) => life.give(Order::Stop),
            Handle::Stream(stream) => stream.cancel(),
        }
    }
}

/// Ends a task from outside.
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

    /// Runs `work` until it ends or is cancelled.
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

/// Runs each HTTP/2 stream as a task that can be cancelled: dropping it resets the stream, and the others of its connection
/// go on.
#[derive(Clone)]
pub struct StreamExecutor;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let cancel = Arc::new(Cancel::default());
        tokio::spawn(STREAM.scope(cancel.clone(), async move { cancel.run(stream).await }));
    }
}
