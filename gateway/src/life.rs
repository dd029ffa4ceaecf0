//! How long connections may wait for what, and how they are told to end. One look over all of them now and then
//! instead of a timer in each: a request then costs no timer at all.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{
            AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::HeaderMap;
use tokio::sync::Notify;

use crate::{Settings, clients::Load, exchange::Exchange, room::Idle};

/// Milliseconds since the server started, as of the last tick. Asking is one load.
pub struct Clock {
    started: Instant,
    now: AtomicU64,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { started: Instant::now(), now: AtomicU64::new(0) }
    }

    pub fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    pub fn tick(&self) -> u64 {
        let now = self.started.elapsed().as_millis() as u64;
        self.now.store(now, Relaxed);
        now
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    GoOn = 0,
    /// End when nothing runs any more.
    Finish = 1,
    /// End at once.
    Stop = 2,
}

// What a connection without a running request waits for.
const FIRST_BYTE: u8 = 0;
const HEAD: u8 = 1;
const NEXT_REQUEST: u8 = 2;
/// HTTP/2: bytes between requests are its own housekeeping and say nothing of a head.
const NEXT_STREAM: u8 = 3;
/// Over TLS, where HTTP/2 was agreed on and its bytes are not seen here.
const FIRST_BYTE_OF_HTTP2: u8 = 4;

/// The life of one connection, or of one tunnel.
pub struct Life {
    /// Of its address; `None` for one that is exempt.
    load: Option<Load>,
    waits_for: AtomicU8,
    since: AtomicU64,
    running: AtomicU32,
    order: AtomicU8,
    waker: Mutex<Option<std::task::Waker>>,
    exchanges: Mutex<Vec<Arc<Exchange>>>,
    /// Since when the socket takes no more of what is to be written.
    blocked: AtomicU64,
    /// Bytes of the heads of answers that were made meanwhile.
    heads_unwritten: AtomicUsize,
}

/// The socket takes what is written.
const NOT_BLOCKED: u64 = u64::MAX;
/// Bytes of heads of answers that may wait for a socket. HTTP/2 limits the bodies that wait for a client, and not the heads.
const MAX_HEADS_UNWRITTEN: usize = 1 << 20;

impl Life {
    pub fn new(now: u64, load: Option<Load>) -> Life {
        Life {
            load,
            waits_for: AtomicU8::new(FIRST_BYTE),
            since: AtomicU64::new(now),
            running: AtomicU32::new(0),
            order: AtomicU8::new(Order::GoOn as u8),
            waker: Mutex::default(),
            exchanges: Mutex::default(),
            blocked: AtomicU64::new(NOT_BLOCKED),
            heads_unwritten: AtomicUsize::new(0),
        }
    }

    pub fn load(&self) -> Option<&Load> {
        self.load.as_ref()
    }

    /// What came of a write to the socket: it took all bytes of it, some (`Some`), or none.
    pub fn wrote(&self, all: bool, bytes: Option<usize>, clock: &Clock) {
        match (bytes, self.blocked.load(Relaxed)) {
            (None, NOT_BLOCKED) => self.blocked.store(clock.now(), Relaxed),
            (Some(_), since) if since != NOT_BLOCKED && all => {
                self.blocked.store(NOT_BLOCKED, Relaxed);
                self.heads_unwritten.store(0, Relaxed);
            }
            // A client that reads a little now and then is not through yet.
            (Some(bytes), since) if since != NOT_BLOCKED => {
                let left = self.heads_unwritten.load(Relaxed).saturating_sub(bytes);
                self.heads_unwritten.store(left, Relaxed);
                self.blocked.store(clock.now(), Relaxed);
            }
            _ => {}
        }
    }

    /// The head of an answer, or its trailers. The connection ends where very much of what was answered before could not be written.
    pub fn answer(&self, head: &HeaderMap) {
        if self.blocked.load(Relaxed) == NOT_BLOCKED {
            return;
        }
        let bytes: usize = head.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        if self.heads_unwritten.fetch_add(bytes, Relaxed) + bytes > MAX_HEADS_UNWRITTEN {
            self.give(Order::Stop);
        }
    }

    /// An exchange is in progress on it, until [`Life::leave`].
    pub fn enter(&self, exchange: Arc<Exchange>) {
        self.exchanges().push(exchange);
    }

    pub fn leave(&self, exchange: &Arc<Exchange>) {
        let mut exchanges = self.exchanges();
        if let Some(place) = exchanges.iter().position(|known| Arc::ptr_eq(known, exchange)) {
            exchanges.swap_remove(place);
        }
    }

    fn exchanges(&self) -> MutexGuard<'_, Vec<Arc<Exchange>>> {
        self.exchanges.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Bytes have come in.
    pub fn heard(&self, bytes: &[u8], clock: &Clock) {
        if self.running.load(Relaxed) > 0 {
            return;
        }
        let waits_for = match self.waits_for.load(Relaxed) {
            FIRST_BYTE if bytes.starts_with(b"PRI ") => NEXT_STREAM,
            FIRST_BYTE_OF_HTTP2 => NEXT_STREAM,
            FIRST_BYTE | NEXT_REQUEST => HEAD,
            _ => return,
        };
        self.waits_for.store(waits_for, Relaxed);
        self.since.store(clock.now(), Relaxed);
    }

    /// The TLS handshake is over; the first byte of a request is still to come.
    pub fn secured(&self, http2: bool, clock: &Clock) {
        let waits_for = if http2 { FIRST_BYTE_OF_HTTP2 } else { FIRST_BYTE };
        self.waits_for.store(waits_for, Relaxed);
        self.since.store(clock.now(), Relaxed);
    }

    /// A request begins: no limit on waiting counts until it ends.
    pub fn begin(&self) {
        self.running.fetch_add(1, Relaxed);
    }

    pub fn end(&self, clock: &Clock) {
        let next = match self.waits_for.load(Relaxed) {
            NEXT_STREAM | FIRST_BYTE_OF_HTTP2 => NEXT_STREAM,
            _ => NEXT_REQUEST,
        };
        self.waits_for.store(next, Relaxed);
        self.since.store(clock.now(), Relaxed);
        self.running.fetch_sub(1, Release);
    }

    fn overdue(&self, now: u64, settings: &Settings) -> Option<Order> {
        if self.running.load(Acquire) > 0 {
            return None;
        }
        let blocked = self.blocked.load(Relaxed);
        if blocked != NOT_BLOCKED
            && u128::from(now.saturating_sub(blocked)) >= settings.forward.write_timeout.as_millis()
        {
            return Some(Order::Stop);
        }
        let (limit, order) = match self.waits_for.load(Relaxed) {
            FIRST_BYTE | FIRST_BYTE_OF_HTTP2 => (settings.http.first_byte_timeout, Order::Stop),
            HEAD => (settings.http.header_timeout, Order::Stop),
            _ => (settings.http.keepalive_timeout, Order::Finish),
        };
        let waited = Duration::from_millis(now.saturating_sub(self.since.load(Relaxed)));
        if waited < limit {
            return None;
        }
        // One that was asked to finish and is still there after another such wait is stopped.
        self.since.store(now, Relaxed);
        match self.order() {
            Order::GoOn => Some(order),
            _ => Some(Order::Stop),
        }
    }

    pub fn order(&self) -> Order {
        match self.order.load(Acquire) {
            0 => Order::GoOn,
            1 => Order::Finish,
            _ => Order::Stop,
        }
    }

    pub fn give(&self, order: Order) {
        if self.order.fetch_max(order as u8, AcqRel) < order as u8 {
            let waker = self.waker.lock().unwrap_or_else(|b| b.into_inner()).clone();
            waker.into_iter().for_each(|waker| waker.wake());
        }
    }

    /// It is to end, since its place is needed. Where a next request may be on its way the client is told first.
    pub fn give_way(&self) {
        let is_between = matches!(self.waits_for.load(Relaxed), NEXT_REQUEST | NEXT_STREAM);
        self.give(if is_between && self.order() == Order::GoOn { Order::Finish } else { Order::Stop });
    }

    /// Orders given from now on wake this task.
    pub fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(|b| b.into_inner());
        *waker = Some(cx.waker().clone());
    }

    /// Runs `work` until it ends or an order at least as strong as `until` comes.
    pub async fn unless<T>(&self, until: Order, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.watch(cx);
            match self.order() >= until {
                true => Poll::Ready(None),
                false => work.as_mut().poll(cx).map(Some),
            }
        })
        .await
    }
}

/// All that is open.
#[derive(Default)]
pub struct Lives {
    open: Mutex<(u64, HashMap<u64, Arc<Life>>)>,
    ended: Notify,
}

/// The entry of an open connection or tunnel; it ends with this.
pub struct Entry {
    pub life: Arc<Life>,
    lives: Arc<Lives>,
    key: u64,
}

impl Lives {
    pub fn enter(self: &Arc<Lives>, clock: &Clock, load: Option<Load>) -> Entry {
        let life = Arc::new(Life::new(clock.now(), load));
        let mut open = self.open();
        open.0 += 1;
        let key = open.0;
        open.1.insert(key, life.clone());
        Entry { life, lives: self.clone(), key }
    }

    /// Ends what has waited for too long.
    pub fn sweep(&self, now: u64, settings: &Settings) {
        let overdue = |life: &Arc<Life>| Some((life.overdue(now, settings)?, life.clone()));
        let overdue: Vec<_> = self.open().1.values().filter_map(overdue).collect();
        overdue.into_iter().for_each(|(order, life)| life.give(order));
    }

    /// Connections on which nothing runs.
    pub fn idle(&self) -> Vec<Idle> {
        let is_idle = |life: &Arc<Life>| life.running.load(Acquire) == 0 && life.order() != Order::Stop;
        let idle =
            |(key, life): (&u64, &Arc<Life>)| Idle { life: life.clone(), since: (life.since.load(Relaxed), *key) };
        self.open().1.iter().filter(|(_, life)| is_idle(life)).map(idle).collect()
    }

    /// All exchanges in progress that pass.
    pub fn exchanges(&self, passes: impl Fn(&Exchange) -> bool) -> Vec<Arc<Exchange>> {
        let all: Vec<_> = self.open().1.values().cloned().collect();
        let mut found = Vec::new();
        for life in all {
            found.extend(life.exchanges().iter().filter(|exchange| passes(exchange)).cloned());
        }
        found
    }

    pub fn give_all(&self, order: Order) {
        let all: Vec<_> = self.open().1.values().cloned().collect();
        all.into_iter().for_each(|life| life.give(order));
    }

    pub async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.open().1.is_empty() {
                return;
            }
            ended.await;
        }
    }

    pub fn count(&self) -> usize {
        self.open().1.len()
    }

    fn open(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<Life>>)> {
        self.open.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.lives.open();
        open.1.remove(&self.key);
        if open.1.is_empty() {
            self.lives.ended.notify_waiters();
        }
    }
}
