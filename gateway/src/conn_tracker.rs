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

use crate::{Settings, client_limits::ConnectionUsage, connection_limit::IdleConnection, exchange::Exchange, headers};

/// A coarse clock: milliseconds since the server started, as of the last tick. Reading it is one atomic load.
pub struct CoarseClock {
    started: Instant,
    now: AtomicU64,
}

impl CoarseClock {
    pub fn start() -> CoarseClock {
        CoarseClock { started: Instant::now(), now: AtomicU64::new(0) }
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
pub enum Shutdown {
    None = 0,
    /// Close after the requests in progress.
    Graceful = 1,
    /// Close immediately.
    Immediate = 2,
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
pub struct ConnState {
    /// The usage of its address; `None` for an exempt one.
    usage: Option<ConnectionUsage>,
    phase: AtomicU8,
    phase_since: AtomicU64,
    running: AtomicU32,
    shutdown_signal: AtomicU8,
    waker: Mutex<Option<std::task::Waker>>,
    exchanges: Mutex<Vec<Arc<Exchange>>>,
    /// Since when writes to the socket block.
    write_blocked_since: AtomicU64,
    /// Bytes of response heads created since then.
    unwritten_head_bytes: AtomicUsize,
}

/// Writes to the socket do not block.
const NOT_BLOCKED: u64 = u64::MAX;
/// Maximum bytes of response heads that wait for a blocked socket. HTTP/2 flow control limits bodies, but not heads.
const MAX_UNWRITTEN_HEAD_BYTES: usize = 1 << 20;

impl ConnState {
    pub fn new(now: u64, load: Option<ConnectionUsage>) -> ConnState {
        ConnState {
            usage: load,
            phase: AtomicU8::new(FIRST_BYTE),
            phase_since: AtomicU64::new(now),
            running: AtomicU32::new(0),
            shutdown_signal: AtomicU8::new(Shutdown::None as u8),
            waker: Mutex::default(),
            exchanges: Mutex::default(),
            write_blocked_since: AtomicU64::new(NOT_BLOCKED),
            unwritten_head_bytes: AtomicUsize::new(0),
        }
    }

    pub fn usage(&self) -> Option<&ConnectionUsage> {
        self.usage.as_ref()
    }

    /// Records the result of a write to the socket: `bytes` is the number of bytes written, `None` if it blocked.
    pub fn on_write(&self, all: bool, bytes: Option<usize>, clock: &CoarseClock) {
        match (bytes, self.write_blocked_since.load(Relaxed)) {
            (None, NOT_BLOCKED) => self.write_blocked_since.store(clock.now(), Relaxed),
            (Some(_), since) if since != NOT_BLOCKED && all => {
                self.write_blocked_since.store(NOT_BLOCKED, Relaxed);
                self.unwritten_head_bytes.store(0, Relaxed);
            }
            // A partial write restarts the timeout, but the socket is still blocked.
            (Some(bytes), since) if since != NOT_BLOCKED => {
                let left = self.unwritten_head_bytes.load(Relaxed).saturating_sub(bytes);
                self.unwritten_head_bytes.store(left, Relaxed);
                self.write_blocked_since.store(clock.now(), Relaxed);
            }
            _ => {}
        }
    }

    /// Counts a response head or trailers. Closes the connection if too many of them wait for a blocked socket.
    pub fn count_response_head(&self, head: &HeaderMap) {
        if self.write_blocked_since.load(Relaxed) == NOT_BLOCKED {
            return;
        }
        let bytes = headers::size(head);
        if self.unwritten_head_bytes.fetch_add(bytes, Relaxed) + bytes > MAX_UNWRITTEN_HEAD_BYTES {
            self.signal(Shutdown::Immediate);
        }
    }

    /// Adds an exchange in progress, until [`ConnState::remove_exchange`].
    pub fn add_exchange(&self, exchange: Arc<Exchange>) {
        self.exchanges().push(exchange);
    }

    pub fn remove_exchange(&self, exchange: &Arc<Exchange>) {
        let mut exchanges = self.exchanges();
        if let Some(index) = exchanges.iter().position(|known| Arc::ptr_eq(known, exchange)) {
            exchanges.swap_remove(index);
        }
    }

    fn exchanges(&self) -> MutexGuard<'_, Vec<Arc<Exchange>>> {
        self.exchanges.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Records received bytes.
    pub fn bytes_received(&self, bytes: &[u8], clock: &CoarseClock) {
        if self.running.load(Relaxed) > 0 {
            return;
        }
        let waits_for = match self.phase.load(Relaxed) {
            FIRST_BYTE if bytes.starts_with(b"PRI ") => NEXT_STREAM,
            FIRST_BYTE_OF_HTTP2 => NEXT_STREAM,
            FIRST_BYTE | NEXT_REQUEST => HEAD,
            _ => return,
        };
        self.phase.store(waits_for, Relaxed);
        self.phase_since.store(clock.now(), Relaxed);
    }

    /// The TLS handshake is complete, and the first byte of a request is awaited.
    pub fn tls_established(&self, http2: bool, clock: &CoarseClock) {
        let waits_for = if http2 { FIRST_BYTE_OF_HTTP2 } else { FIRST_BYTE };
        self.phase.store(waits_for, Relaxed);
        self.phase_since.store(clock.now(), Relaxed);
    }

    /// A request begins: the connection timeouts are suspended until it ends.
    pub fn request_started(&self) {
        self.running.fetch_add(1, Relaxed);
    }

    pub fn request_ended(&self, clock: &CoarseClock) {
        let next = match self.phase.load(Relaxed) {
            NEXT_STREAM | FIRST_BYTE_OF_HTTP2 => NEXT_STREAM,
            _ => NEXT_REQUEST,
        };
        self.phase.store(next, Relaxed);
        self.phase_since.store(clock.now(), Relaxed);
        self.running.fetch_sub(1, Release);
    }

    fn check_timeouts(&self, now: u64, settings: &Settings) -> Option<Shutdown> {
        if self.running.load(Acquire) > 0 {
            return None;
        }
        let blocked = self.write_blocked_since.load(Relaxed);
        if blocked != NOT_BLOCKED
            && u128::from(now.saturating_sub(blocked)) >= settings.forward.write_timeout.as_millis()
        {
            return Some(Shutdown::Immediate);
        }
        let (limit, order) = match self.phase.load(Relaxed) {
            FIRST_BYTE | FIRST_BYTE_OF_HTTP2 => (settings.http.first_byte_timeout, Shutdown::Immediate),
            HEAD => (settings.http.header_timeout, Shutdown::Immediate),
            _ => (settings.http.keepalive_timeout, Shutdown::Graceful),
        };
        let waited = Duration::from_millis(now.saturating_sub(self.phase_since.load(Relaxed)));
        if waited < limit {
            return None;
        }
        // A connection that did not close gracefully within another timeout is closed immediately.
        self.phase_since.store(now, Relaxed);
        match self.shutdown_signal() {
            Shutdown::None => Some(order),
            _ => Some(Shutdown::Immediate),
        }
    }

    pub fn shutdown_signal(&self) -> Shutdown {
        match self.shutdown_signal.load(Acquire) {
            0 => Shutdown::None,
            1 => Shutdown::Graceful,
            _ => Shutdown::Immediate,
        }
    }

    pub fn signal(&self, order: Shutdown) {
        if self.shutdown_signal.fetch_max(order as u8, AcqRel) < order as u8 {
            let waker = self.waker.lock().unwrap_or_else(|b| b.into_inner()).clone();
            waker.into_iter().for_each(|waker| waker.wake());
        }
    }

    /// Closes it to free its slot: gracefully if it is between requests, since the next one may be on its way.
    pub fn evict(&self) {
        let is_between = matches!(self.phase.load(Relaxed), NEXT_REQUEST | NEXT_STREAM);
        self.signal(if is_between && self.shutdown_signal() == Shutdown::None {
            Shutdown::Graceful
        } else {
            Shutdown::Immediate
        });
    }

    /// Registers this task for wake-ups by later signals.
    pub fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(|b| b.into_inner());
        *waker = Some(cx.waker().clone());
    }

    /// Runs `work` until it completes, or until a signal of at least the level `until`, which returns `None`.
    pub async fn run_until<T>(&self, until: Shutdown, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.watch(cx);
            match self.shutdown_signal() >= until {
                true => Poll::Ready(None),
                false => work.as_mut().poll(cx).map(Some),
            }
        })
        .await
    }
}

/// All open connections and tunnels.
#[derive(Default)]
pub struct ConnTracker {
    open: Mutex<(u64, HashMap<u64, Arc<ConnState>>)>,
    all_closed: Notify,
}

/// Keeps a connection or tunnel registered, until it is dropped.
pub struct ConnGuard {
    pub state: Arc<ConnState>,
    tracker: Arc<ConnTracker>,
    key: u64,
}

impl ConnTracker {
    pub fn register(self: &Arc<ConnTracker>, clock: &CoarseClock, load: Option<ConnectionUsage>) -> ConnGuard {
        let life = Arc::new(ConnState::new(clock.now(), load));
        let mut open = self.open();
        open.0 += 1;
        let key = open.0;
        open.1.insert(key, life.clone());
        ConnGuard { state: life, tracker: self.clone(), key }
    }

    /// Closes connections whose timeout has expired.
    pub fn sweep(&self, now: u64, settings: &Settings) {
        let overdue = |life: &Arc<ConnState>| Some((life.check_timeouts(now, settings)?, life.clone()));
        let overdue: Vec<_> = self.open().1.values().filter_map(overdue).collect();
        overdue.into_iter().for_each(|(order, life)| life.signal(order));
    }

    /// Connections without a request in progress.
    pub fn idle(&self) -> Vec<IdleConnection> {
        let is_idle =
            |life: &Arc<ConnState>| life.running.load(Acquire) == 0 && life.shutdown_signal() != Shutdown::Immediate;
        let idle = |(key, life): (&u64, &Arc<ConnState>)| IdleConnection {
            state: life.clone(),
            since: (life.phase_since.load(Relaxed), *key),
        };
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

    pub fn signal_all(&self, order: Shutdown) {
        let all: Vec<_> = self.open().1.values().cloned().collect();
        all.into_iter().for_each(|life| life.signal(order));
    }

    pub async fn all_ended(&self) {
        loop {
            let ended = self.all_closed.notified();
            if self.open().1.is_empty() {
                return;
            }
            ended.await;
        }
    }

    pub fn count(&self) -> usize {
        self.open().1.len()
    }

    fn open(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<ConnState>>)> {
        self.open.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        let mut open = self.tracker.open();
        open.1.remove(&self.key);
        if open.1.is_empty() {
            self.tracker.all_closed.notify_waiters();
        }
    }
}
