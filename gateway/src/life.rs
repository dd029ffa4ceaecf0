//! The open connections and tunnels: their timeouts, their exchanges and their shutdown. A periodic sweep over all
//! connections replaces a timer per connection, so that requests need no timers.

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

use crate::{Settings, clients::Load, exchange::Exchange, headers, room::Idle};

/// A coarse clock: milliseconds since the server started, as of the last tick. Reading it is one atomic load.
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

/// The shutdown signal of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    GoOn = 0,
    /// Close after the requests in progress.
    Finish = 1,
    /// Close immediately.
    Stop = 2,
}

// What a connection without a request in progress waits for.
const FIRST_BYTE: u8 = 0;
const HEAD: u8 = 1;
const NEXT_REQUEST: u8 = 2;
/// HTTP/2: bytes between requests may be control frames, and do not mean that a head has begun.
const NEXT_STREAM: u8 = 3;
/// HTTP/2 negotiated over TLS, whose decrypted bytes are not visible here.
const FIRST_BYTE_OF_HTTP2: u8 = 4;

/// The state of a connection or tunnel.
pub struct Life {
    /// The usage of its address; `None` for an exempt one.
    load: Option<Load>,
    waits_for: AtomicU8,
    since: AtomicU64,
    running: AtomicU32,
    order: AtomicU8,
    waker: Mutex<Option<std::task::Waker>>,
    exchanges: Mutex<Vec<Arc<Exchange>>>,
    /// Since when writes to the socket block.
    blocked: AtomicU64,
    /// Bytes of response heads created since then.
    heads_unwritten: AtomicUsize,
}

/// Writes to the socket do not block.
const NOT_BLOCKED: u64 = u64::MAX;
/// Maximum bytes of response heads that wait for a blocked socket. HTTP/2 flow control limits bodies, but not heads.
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

    /// Records the result of a write to the socket: `bytes` is the number of bytes written, `None` if it blocked.
    pub fn wrote(&self, all: bool, bytes: Option<usize>, clock: &Clock) {
        match (bytes, self.blocked.load(Relaxed)) {
            (None, NOT_BLOCKED) => self.blocked.store(clock.now(), Relaxed),
            (Some(_), since) if since != NOT_BLOCKED && all => {
                self.blocked.store(NOT_BLOCKED, Relaxed);
                self.heads_unwritten.store(0, Relaxed);
            }
            // A partial write restarts the timeout, but the socket is still blocked.
            (Some(bytes), since) if since != NOT_BLOCKED => {
                let left = self.heads_unwritten.load(Relaxed).saturating_sub(bytes);
                self.heads_unwritten.store(left, Relaxed);
                self.blocked.store(clock.now(), Relaxed);
            }
            _ => {}
        }
    }

    /// Counts a response head or trailers. Closes the connection if too many of them wait for a blocked socket.
    pub fn answer(&self, head: &HeaderMap) {
        if self.blocked.load(Relaxed) == NOT_BLOCKED {
            return;
        }
        let bytes = headers::size(head);
        if self.heads_unwritten.fetch_add(bytes, Relaxed) + bytes > MAX_HEADS_UNWRITTEN {
            self.give(Order::Stop);
        }
    }

    /// Adds an exchange in progress, until [`ConnState::remove_exchange`].
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

    /// Records received bytes.
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

    /// The TLS handshake is complete, and the first byte of a request is awaited.
    pub fn secured(&self, http2: bool, clock: &Clock) {
        let waits_for = if http2 { FIRST_BYTE_OF_HTTP2 } else { FIRST_BYTE };
        self.waits_for.store(waits_for, Relaxed);
        self.since.store(clock.now(), Relaxed);
    }

    /// A request begins: the connection timeouts are suspended until it ends.
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
        // A connection that did not close gracefully within another timeout is closed immediately.
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

    /// Closes it to free its slot: gracefully if it is between requests, since the next one may be on its way.
    pub fn give_way(&self) {
        let is_between = matches!(self.waits_for.load(Relaxed), NEXT_REQUEST | NEXT_STREAM);
        self.give(if is_between && self.order() == Order::GoOn { Order::Finish } else { Order::Stop });
    }

    /// Registers this task for wake-ups by later signals.
    pub fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(|b| b.into_inner());
        *waker = Some(cx.waker().clone());
    }

    /// Runs `work` until it completes, or until a signal of at least the level `until`, which returns `None`.
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

/// All open connections and tunnels.
#[derive(Default)]
pub struct Lives {
    open: Mutex<(u64, HashMap<u64, Arc<Life>>)>,
    ended: Notify,
}

/// Keeps a connection or tunnel registered, until it is dropped.
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

    /// Closes connections whose timeout has expired.
    pub fn sweep(&self, now: u64, settings: &Settings) {
        let overdue = |life: &Arc<Life>| Some((life.overdue(now, settings)?, life.clone()));
        let overdue: Vec<_> = self.open().1.values().filter_map(overdue).collect();
        overdue.into_iter().for_each(|(order, life)| life.give(order));
    }

    /// Connections without a request in progress.
    pub fn idle(&self) -> Vec<Idle> {
        let is_idle = |life: &Arc<Life>| life.running.load(Acquire) == 0 && life.order() != Order::Stop;
        let idle =
            |(key, life): (&u64, &Arc<Life>)| Idle { life: life.clone(), since: (life.since.load(Relaxed), *key) };
        self.open().1.iter().filter(|(_, life)| is_idle(life)).map(idle).collect()
    }

    /// The exchanges in progress for which the predicate holds.
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
