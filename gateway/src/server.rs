//! The server: accepts connections, serves TLS, HTTP/1.1 and HTTP/2, enforces timeouts and shuts down gracefully.

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use openorch_chassis::{Credential, LogLimit, Peer, forwarded::ForwardedContext};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::{
    Gateway,
    client_limits::{ClientLimits, ClientSlot},
    conn_tracker::{CoarseClock, ConnGuard, ConnState, ConnTracker, Shutdown},
    connection::{Connection, Socket, Stream},
    connection_limit::{self, ConnectionLimiter, ConnectionPermit},
    dispatch::serve,
    exchange::{Exchange, StreamExecutor},
    response_budget,
    tls::HandshakeLimiter,
};

/// The listener side of a [`Gateway`].
pub struct Server {
    gateway: Arc<Gateway>,
    clock: Arc<CoarseClock>,
    tracker: Arc<ConnTracker>,
    connection_limiter: Arc<ConnectionLimiter>,
    client_limits: Arc<ClientLimits>,
    refused_log_limit: LogLimit,
    full_log_limit: LogLimit,
    handshakes: HandshakeLimiter,
    http: auto::Builder<StreamExecutor>,
}

impl Server {
    pub fn new(gateway: Arc<Gateway>) -> Server {
        let settings = &gateway.settings;
        let mut http = auto::Builder::new(StreamExecutor);
        // A client that closes its sending half counts as disconnected: `half_close` stays off. hyper's timeout for heads is
        // not used, since it also applies between requests; `conn_tracker` enforces one for all connections.
        http.http1().max_buf_size((*settings.http.max_header_bytes).max(8192));
        if settings.http.max_headers != 100 {
            // The default of 100 is on the stack, any other number needs allocations.
            http.http1().max_headers(settings.http.max_headers);
        }
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.http.max_streams_per_connection)
            // Bounds the memory of each stream that the client does not read.
            .max_send_buf_size(STREAM_BUFFER)
            .max_header_list_size((*settings.http.max_header_bytes).try_into().unwrap_or(u32::MAX));
        Server {
            clock: Arc::new(CoarseClock::start()),
            tracker: Arc::default(),
            connection_limiter: Arc::new(ConnectionLimiter::new(
                settings.http.max_connections,
                gateway.metrics.clone(),
            )),
            client_limits: Arc::default(),
            refused_log_limit: LogLimit::once_a_minute(),
            full_log_limit: LogLimit::once_a_minute(),
            handshakes: HandshakeLimiter::default(),
            http,
            gateway,
        }
    }

    /// Serves until `shutdown` completes. Then requests in progress have the drain time to complete, and remaining
    /// connections are closed. Dropping this future closes all connections immediately.
    pub async fn run(self, listeners: Vec<TcpListener>, shutdown: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(server.clone().accept(listener, stopped.clone()));
        }
        tasks.spawn(server.clone().tick());
        tasks.spawn(server.clone().evict_idle());
        tasks.spawn(server.clone().abort_stalled_exchanges());
        tasks.spawn(server.clone().abort_unauthorized_exchanges());
        shutdown.await;
        drop(stop);
        // First end the event streams, so that their last events are sent before their connections close.
        server.gateway.builtin.drain();
        server.tracker.signal_all(Shutdown::Graceful);
        let drain = server.gateway.settings.http.drain;
        if tokio::time::timeout(drain, server.tracker.all_ended()).await.is_err() {
            tracing::warn!(
                connections = server.tracker.count(),
                "closing connections with requests still in progress after {drain:?}"
            );
            server.tracker.signal_all(Shutdown::Immediate);
            // Their tasks end when they are polled next.
            let _ = tokio::time::timeout(Duration::from_secs(1), server.tracker.all_ended()).await;
        }
        tasks.shutdown().await;
    }

    async fn accept(self: Arc<Server>, listener: TcpListener, mut stopped: watch::Receiver<()>) {
        let log_limit = LogLimit::once_a_minute();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.changed() => return,
            };
            match accepted {
                Ok((stream, from)) => match self.client_limits.acquire(from.ip(), &self.gateway.settings) {
                    Ok(place) => self.admit(stream, from, place, &stopped),
                    Err(has) => self.reject(from, has),
                },
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    // Usually the limit on open files. Closing idle upstream connections may free some.
                    self.gateway.table.close_idle();
                    if log_limit.allow().is_some() {
                        tracing::error!(%error, "cannot accept connections; raise the limit on open files if this persists");
                    }
                    sleep(*self.gateway.settings.http.accept_pause).await;
                }
            }
        }
    }

    /// Serves a connection as soon as it has a slot.
    fn admit(
        self: &Arc<Server>,
        stream: TcpStream,
        from: SocketAddr,
        client: Option<ClientSlot>,
        stopped: &watch::Receiver<()>,
    ) {
        let is_exempt = client.is_none();
        if let Some(place) = self.connection_limiter.try_acquire(is_exempt) {
            return self.clone().start(stream, from, (place, client));
        }
        if let Some(more) = self.full_log_limit.allow() {
            let most = self.gateway.settings.http.max_connections;
            tracing::warn!(
                "the limit of {most} connections (OPENORCH_HTTP_MAX_CONNECTIONS) is reached: idle connections are evicted, new \
                 ones wait; {more} similar lines suppressed"
            );
        }
        let Some(waiting) = self.connection_limiter.join_queue() else {
            self.gateway.metrics.connections_refused.inc();
            return;
        };
        let (server, mut stopped) = (self.clone(), stopped.clone());
        tokio::spawn(async move {
            let queue_timeout = server.gateway.settings.http.first_byte_timeout;
            tokio::select! {
                Ok(place) = tokio::time::timeout(queue_timeout, waiting.acquire(is_exempt)) => {
                    server.start(stream, from, (place, client));
                }
                _ = stopped.changed() => {}
                else => {}
            }
        });
    }

    /// Evicts idle connections while others wait for a slot.
    async fn evict_idle(self: Arc<Server>) {
        loop {
            let wanted = self.connection_limiter.eviction_demand().await;
            connection_limit::select_evictions(self.tracker.idle(), wanted).iter().for_each(|life| life.evict());
            // Evicted connections close when they are polled next, and scanning all connections is expensive.
            sleep(EVICTION_INTERVAL).await;
        }
    }

    /// Closes a connection whose address has reached its limit.
    fn reject(&self, from: SocketAddr, has: usize) {
        self.gateway.metrics.connections_refused.inc();
        if let Some(more) = self.refused_log_limit.allow() {
            tracing::warn!(
                client.address = %from.ip(),
                "connection refused: its network has reached the limit of {has} connections \
                 (OPENORCH_HTTP_MAX_CONNECTIONS_PER_ADDRESS); {more} similar lines suppressed"
            );
        }
    }

    fn start(self: Arc<Server>, stream: TcpStream, from: SocketAddr, places: Slots) {
        let entry = self.tracker.register(&self.clock, places.1.as_ref().map(ClientSlot::connection_usage));
        tokio::spawn(async move {
            let metrics = self.gateway.metrics.clone();
            if let Err(error) = self.serve_connection(stream, from, &entry, places).await {
                metrics.connections_failed.inc();
                tracing::debug!(%error, "a connection ended with an error");
            }
            drop(entry);
        });
    }

    async fn serve_connection(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        entry: &ConnGuard,
        (room, place): Slots,
    ) -> Served {
        let conn = &entry.state;
        // Nagle's algorithm would delay small responses. Ignored on failure: the connection works without it.
        let _ = stream.set_nodelay(true);
        // Detects clients that disappeared, even if nothing is written to them.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        let socket = Socket { stream, state: conn.clone(), clock: self.clock.clone() };
        let tls = &self.gateway.tls;
        let mut is_http2 = false;
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                let handshake = self.handshakes.accept(tls, socket, from.ip());
                let Some(established) = conn.run_until(Shutdown::Graceful, handshake).await else {
                    return Ok(());
                };
                let secured = established?;
                is_http2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
                conn.tls_established(is_http2, &self.clock);
                Stream::Tls(Box::new(secured))
            }
        };
        let peer = Arc::new(Peer { address: from, tls: tls.is_some() });
        let connection = Arc::new(Connection {
            gateway: self.gateway.clone(),
            clock: self.clock.clone(),
            tracker: self.tracker.clone(),
            state: conn.clone(),
            forwarded: ForwardedContext::new(&peer, &self.gateway.settings.http.trusted_proxies),
            client_slot: place,
            _permit: room,
            peer,
        });
        let service = service_fn(move |request| serve(connection.clone(), request));
        let stream = TokioIo::new(stream);
        if is_http2 {
            // Only the negotiated protocol is accepted; HTTP/2 has no upgrades.
            let http = self.http.clone().http2_only();
            run_until_shutdown(conn, http.serve_connection(stream, service), |http| http.graceful_shutdown()).await
        } else {
            let http = self.http.serve_connection_with_upgrades(stream, service);
            run_until_shutdown(conn, http, |http| http.graceful_shutdown()).await
        }
    }

    /// The periodic tick: advances the clock, and closes timed-out client connections and expired upstream connections.
    async fn tick(self: Arc<Server>) {
        let settings = &self.gateway.settings;
        let shortest = settings
            .http
            .first_byte_timeout
            .min(settings.http.header_timeout)
            .min(settings.http.keepalive_timeout)
            .min(settings.forward.upstream_idle_timeout);
        let step = (shortest / 8).clamp(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            sleep(step).await;
            let now = self.clock.tick();
            self.tracker.sweep(now, settings);
            self.gateway.table.sweep(now, settings);
            self.client_limits.sweep();
        }
    }

    /// Aborts exchanges whose client is stalled: responses that are not read, incomplete request bodies, and bodies that
    /// outlast their response. Never blocks on the store.
    async fn abort_stalled_exchanges(self: Arc<Server>) {
        let (settings, metrics) = (&self.gateway.settings, &self.gateway.metrics);
        let shortest =
            settings.http.write_timeout.min(settings.forward.write_timeout).min(settings.forward.read_timeout);
        let shortest = shortest.min(settings.forward.linger_timeout);
        let step = (shortest / 8).clamp(Duration::from_millis(5), EXCHANGE_CHECK_INTERVAL);
        loop {
            sleep(step).await;
            let now = self.clock.now();
            let untaken = self.tracker.exchanges(|exchange| response_budget::is_unread(exchange, now));
            let mut stalled = self.tracker.exchanges(|exchange| {
                exchange.is_response_stalled(now, settings)
                    || exchange.is_body_stalled(now, settings)
                    || exchange.is_lingering(now, settings)
            });
            stalled.extend(response_budget::over_budget(untaken, now, settings));
            for exchange in stalled {
                metrics.stalled.inc();
                exchange.abort();
            }
        }
    }

    /// Aborts requests and tunnels whose credential or service has ended. May have to read credentials from the store.
    async fn abort_unauthorized_exchanges(self: Arc<Server>) {
        let metrics = &self.gateway.metrics;
        loop {
            sleep(EXCHANGE_CHECK_INTERVAL).await;
            let now = self.clock.now();
            let is_long = |exchange: &Exchange| {
                (exchange.service().is_some() || exchange.credential().is_some())
                    && u128::from(exchange.age(now)) >= EXCHANGE_CHECK_INTERVAL.as_millis()
            };
            for exchange in self.with_ended_credentials(self.tracker.exchanges(is_long)).await {
                metrics.session_ended.inc();
                exchange.abort();
            }
        }
    }

    /// The exchanges among these whose credential or service has ended.
    async fn with_ended_credentials(&self, exchanges: Vec<Arc<Exchange>>) -> Vec<Arc<Exchange>> {
        let credentials: HashSet<Credential> =
            exchanges.iter().filter_map(|exchange| exchange.credential().cloned()).collect();
        let credentials: Vec<Credential> = credentials.into_iter().collect();
        let ended = self.ended_credentials(credentials).await;
        let is_over = |exchange: &Exchange| {
            exchange.service().is_some_and(|service| service.is_removed())
                || exchange.credential().is_some_and(|credential| ended.contains(credential))
        };
        exchanges.into_iter().filter(|exchange| is_over(exchange)).collect()
    }

    /// The credentials among these that have ended. If the store does not respond, they count as valid.
    async fn ended_credentials(&self, credentials: Vec<Credential>) -> HashSet<Credential> {
        let all = self.gateway.identity.ended_credentials(&credentials);
        if let Ok(ended) = tokio::time::timeout(CREDENTIAL_CHECK_TIMEOUT, all).await {
            return ended.into_iter().collect();
        }
        // Check them one by one, so that one that must be read from the store does not hide those known in memory.
        let mut asked = JoinSet::new();
        for credential in credentials {
            let gateway = self.gateway.clone();
            asked.spawn(async move {
                let one = gateway.identity.ended_credentials(std::slice::from_ref(&credential));
                tokio::time::timeout(CREDENTIAL_CHECK_TIMEOUT, one).await.unwrap_or_default()
            });
        }
        let mut ended = HashSet::new();
        while let Some(found) = asked.join_next().await {
            ended.extend(found.unwrap_or_default());
        }
        ended
    }
}

type Served = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Serves a connection until it ends or is shut down.
async fn run_until_shutdown<C: Future<Output = Served>>(
    life: &ConnState,
    http: C,
    finish: impl Fn(Pin<&mut C>),
) -> Served {
    let mut http = pin!(http);
    let (mut watched, mut finishing) = (false, false);
    poll_fn(|cx| {
        if !watched {
            // Once suffices: the task's waker does not change.
            life.watch(cx);
            watched = true;
        }
        match life.shutdown_signal() {
            Shutdown::Immediate => return Poll::Ready(Ok(())),
            Shutdown::Graceful if !finishing => {
                finishing = true;
                finish(http.as_mut());
            }
            _ => {}
        }
        http.as_mut().poll(cx)
    })
    .await
}

/// A client that does not respond to four probes counts as disconnected.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// The slots of a connection, of the total limit and of its address.
type Slots = (ConnectionPermit, Option<ClientSlot>);

/// Timeout of a check of credentials.
const CREDENTIAL_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval between evictions.
const EVICTION_INTERVAL: Duration = Duration::from_millis(50);

/// Interval of the checks of exchanges, and the age from which they are checked, so that the end of a session ends its
/// exchanges within a second.
const EXCHANGE_CHECK_INTERVAL: Duration = Duration::from_millis(400);

/// Size of the send buffer of an HTTP/2 stream.
const STREAM_BUFFER: usize = 64 << 10;

/// Whether an accept error concerns a single connection, whose client disconnected before it was accepted.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
