//! Takes connections and keeps them: accepting, TLS, HTTP/1.1 and HTTP/2, limits on waiting, and the end.

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
use openorch_chassis::{Credential, LogLimit, Peer, forwarded::Hop};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::{
    Gateway,
    clients::{ClientPlace, Clients},
    connection::{Connection, Socket, Stream},
    exchange::{Exchange, StreamExecutor},
    life::{Clock, Entry, Life, Lives, Order},
    room::{self, Place, Room},
    service::serve,
    tls::Handshakes,
    untaken,
};

/// The listener side of a [`Gateway`].
pub struct Server {
    gateway: Arc<Gateway>,
    clock: Arc<Clock>,
    lives: Arc<Lives>,
    room: Arc<Room>,
    clients: Arc<Clients>,
    refused_connections: LogLimit,
    no_room: LogLimit,
    handshakes: Handshakes,
    http: auto::Builder<StreamExecutor>,
}

impl Server {
    pub fn new(gateway: Arc<Gateway>) -> Server {
        let settings = &gateway.settings;
        let mut http = auto::Builder::new(StreamExecutor);
        // A client that closes its sending side has left: `half_close` stays off. hyper's own time-out for heads is
        // not used, since it counts between requests too; `life` does that work for all connections at once.
        http.http1().max_buf_size((*settings.http.max_header_bytes).max(8192));
        if settings.http.max_headers != 100 {
            // The default of 100 lives on the stack, any other number costs allocations.
            http.http1().max_headers(settings.http.max_headers);
        }
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.http.max_streams_per_connection)
            // What a client lets pile up in its streams is held for each of them.
            .max_send_buf_size(STREAM_BUFFER)
            .max_header_list_size((*settings.http.max_header_bytes).try_into().unwrap_or(u32::MAX));
        Server {
            clock: Arc::new(Clock::start()),
            lives: Arc::default(),
            room: Arc::new(Room::new(settings.http.max_connections, gateway.metrics.clone())),
            clients: Arc::default(),
            refused_connections: LogLimit::once_a_minute(),
            no_room: LogLimit::once_a_minute(),
            handshakes: Handshakes::default(),
            http,
            gateway,
        }
    }

    /// Serves until `shutdown` ends; then running requests have the drain time, and what is left is cut. To cut at
    /// once, drop this future.
    pub async fn run(self, listeners: Vec<TcpListener>, shutdown: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(server.clone().accept(listener, stopped.clone()));
        }
        tasks.spawn(server.clone().tick());
        tasks.spawn(server.clone().make_room());
        tasks.spawn(server.clone().end_stale_exchanges());
        tasks.spawn(server.clone().end_outlived_exchanges());
        shutdown.await;
        drop(stop);
        // First, so that what they still say is sent before their connections end.
        server.gateway.builtin.drain();
        server.lives.give_all(Order::Finish);
        let drain = server.gateway.settings.http.drain;
        if tokio::time::timeout(drain, server.lives.all_ended()).await.is_err() {
            tracing::warn!(connections = server.lives.count(), "requests still running after {drain:?} are cut");
            server.lives.give_all(Order::Stop);
            // They end at their next turn; nothing of theirs is waited for.
            let _ = tokio::time::timeout(Duration::from_secs(1), server.lives.all_ended()).await;
        }
        tasks.shutdown().await;
    }

    async fn accept(self: Arc<Server>, listener: TcpListener, mut stopped: watch::Receiver<()>) {
        let complaint = LogLimit::once_a_minute();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.changed() => return,
            };
            match accepted {
                Ok((stream, from)) => match self.clients.enter(from.ip(), &self.gateway.settings) {
                    Ok(place) => self.admit(stream, from, place, &stopped),
                    Err(has) => self.refuse(from, has),
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Mostly: out of file descriptors. What is open goes on, and may free some.
                    self.gateway.table.close_unused();
                    if complaint.allow().is_some() {
                        tracing::error!(%error, "no connection can be accepted; raise the limit on open files if this goes on");
                    }
                    sleep(*self.gateway.settings.http.accept_pause).await;
                }
            }
        }
    }

    /// Serves a connection as soon as there is a place for it.
    fn admit(
        self: &Arc<Server>,
        stream: TcpStream,
        from: SocketAddr,
        client: Option<ClientPlace>,
        stopped: &watch::Receiver<()>,
    ) {
        let is_exempt = client.is_none();
        if let Some(place) = self.room.try_enter(is_exempt) {
            return self.clone().start(stream, from, (place, client));
        }
        if let Some(more) = self.no_room.allow() {
            let most = self.gateway.settings.http.max_connections;
            tracing::warn!(
                "{most} connections may be open (OPENORCH_HTTP_MAX_CONNECTIONS), and those for this one's address are: those \
                 without a request give way to new ones, which else wait; {more} more since the last such line"
            );
        }
        let Some(waiting) = self.room.wait() else {
            self.gateway.metrics.connections_refused.inc();
            return;
        };
        let (server, mut stopped) = (self.clone(), stopped.clone());
        tokio::spawn(async move {
            let patience = server.gateway.settings.http.first_byte_timeout;
            tokio::select! {
                Ok(place) = tokio::time::timeout(patience, waiting.enter(is_exempt)) => {
                    server.start(stream, from, (place, client));
                }
                _ = stopped.changed() => {}
                else => {}
            }
        });
    }

    /// Lets connections without a request give way, as long as others wait for a place.
    async fn make_room(self: Arc<Server>) {
        loop {
            let wanted = self.room.wanted().await;
            room::that_give_way(self.lives.idle(), wanted).iter().for_each(|life| life.give_way());
            // They end at their next turn, and looking at all of them costs something.
            sleep(ROOM_CHECK).await;
        }
    }

    /// Closes a connection at once: its address has as many as it may.
    fn refuse(&self, from: SocketAddr, has: usize) {
        self.gateway.metrics.connections_refused.inc();
        if let Some(more) = self.refused_connections.allow() {
            tracing::warn!(
                client.address = %from.ip(),
                "a connection is refused: its network has {has} open, as many as it may \
                 (OPENORCH_HTTP_MAX_CONNECTIONS_PER_ADDRESS); {more} more were refused since the last such line"
            );
        }
    }

    fn start(self: Arc<Server>, stream: TcpStream, from: SocketAddr, places: Places) {
        let entry = self.lives.enter(&self.clock, places.1.as_ref().map(ClientPlace::load));
        tokio::spawn(async move {
            let metrics = self.gateway.metrics.clone();
            if let Err(error) = self.keep(stream, from, &entry, places).await {
                metrics.connections_failed.inc();
                tracing::debug!(%error, "a connection ended with an error");
            }
            drop(entry);
        });
    }

    async fn keep(&self, stream: TcpStream, from: SocketAddr, entry: &Entry, (room, place): Places) -> Served {
        let life = &entry.life;
        // Without it small answers wait for acknowledgements; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        // A client that vanished without a word is found out, also one that is not written to.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        let socket = Socket { stream, life: life.clone(), clock: self.clock.clone() };
        let tls = &self.gateway.tls;
        let mut is_http2 = false;
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                let securing = self.handshakes.secure(tls, socket, from.ip());
                let Some(secured) = life.unless(Order::Finish, securing).await else {
                    return Ok(());
                };
                let secured = secured?;
                is_http2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
                life.secured(is_http2, &self.clock);
                Stream::Tls(Box::new(secured))
            }
        };
        let peer = Arc::new(Peer { address: from, tls: tls.is_some() });
        let connection = Arc::new(Connection {
            gateway: self.gateway.clone(),
            clock: self.clock.clone(),
            lives: self.lives.clone(),
            life: life.clone(),
            hop: Hop::new(&peer, &self.gateway.settings.http.trusted_proxies),
            place,
            _room: room,
            peer,
        });
        let service = service_fn(move |request| serve(connection.clone(), request));
        let stream = TokioIo::new(stream);
        if is_http2 {
            // What was agreed on is spoken and nothing else; it has no upgrades.
            let http = self.http.clone().http2_only();
            until_told(life, http.serve_connection(stream, service), |http| http.graceful_shutdown()).await
        } else {
            let http = self.http.serve_connection_with_upgrades(stream, service);
            until_told(life, http, |http| http.graceful_shutdown()).await
        }
    }

    /// Time for all: the clock, the connections that waited too long, the unused ones to instances.
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
            self.lives.sweep(now, settings);
            self.gateway.table.sweep(now, settings);
            self.clients.sweep();
        }
    }

    /// Ends what the client leaves: answers untaken, bodies in their middle or after their answer. Waits for nobody.
    async fn end_stale_exchanges(self: Arc<Server>) {
        let (settings, metrics) = (&self.gateway.settings, &self.gateway.metrics);
        let shortest =
            settings.http.write_timeout.min(settings.forward.write_timeout).min(settings.forward.read_timeout);
        let shortest = shortest.min(settings.forward.linger_timeout);
        let step = (shortest / 8).clamp(Duration::from_millis(5), EXCHANGE_CHECK);
        loop {
            sleep(step).await;
            let now = self.clock.now();
            let untaken = self.lives.exchanges(|exchange| untaken::is_untaken(exchange, now));
            let mut stalled = self.lives.exchanges(|exchange| {
                exchange.is_stalled(now, settings)
                    || exchange.is_silent(now, settings)
                    || exchange.is_left_over(now, settings)
            });
            stalled.extend(untaken::beyond_budget(untaken, now, settings));
            for exchange in stalled {
                metrics.stalled.inc();
                exchange.end();
            }
        }
    }

    /// Ends requests and tunnels that outlived the credential they came with, or their service. Whether a credential has
    /// ended may have to be looked up where it is stored.
    async fn end_outlived_exchanges(self: Arc<Server>) {
        let metrics = &self.gateway.metrics;
        loop {
            sleep(EXCHANGE_CHECK).await;
            let now = self.clock.now();
            let is_long = |exchange: &Exchange| {
                (exchange.service().is_some() || exchange.credential().is_some())
                    && u128::from(exchange.age(now)) >= EXCHANGE_CHECK.as_millis()
            };
            for exchange in self.outlived(self.lives.exchanges(is_long)).await {
                metrics.session_ended.inc();
                exchange.end();
            }
        }
    }

    /// Those of these whose credential or service has ended.
    async fn outlived(&self, exchanges: Vec<Arc<Exchange>>) -> Vec<Arc<Exchange>> {
        let credentials: HashSet<Credential> =
            exchanges.iter().filter_map(|exchange| exchange.credential().cloned()).collect();
        let credentials: Vec<Credential> = credentials.into_iter().collect();
        let ended = self.ended(credentials).await;
        let is_over = |exchange: &Exchange| {
            exchange.service().is_some_and(|service| service.is_forgotten())
                || exchange.credential().is_some_and(|credential| ended.contains(credential))
        };
        exchanges.into_iter().filter(|exchange| is_over(exchange)).collect()
    }

    /// Those of these credentials that are known to have ended. A database that stands still ends nobody's request.
    async fn ended(&self, credentials: Vec<Credential>) -> HashSet<Credential> {
        let all = self.gateway.identity.ended_credentials(&credentials);
        if let Ok(ended) = tokio::time::timeout(CREDENTIALS_LIMIT, all).await {
            return ended.into_iter().collect();
        }
        // One that has to be looked up there hides none that is known.
        let mut asked = JoinSet::new();
        for credential in credentials {
            let gateway = self.gateway.clone();
            asked.spawn(async move {
                let one = gateway.identity.ended_credentials(std::slice::from_ref(&credential));
                tokio::time::timeout(CREDENTIALS_LIMIT, one).await.unwrap_or_default()
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

/// Serves a connection to its end, or as far as it may go.
async fn until_told<C: Future<Output = Served>>(life: &Life, http: C, finish: impl Fn(Pin<&mut C>)) -> Served {
    let mut http = pin!(http);
    let (mut watched, mut finishing) = (false, false);
    poll_fn(|cx| {
        if !watched {
            // The task's waker stays the same, so once is enough.
            life.watch(cx);
            watched = true;
        }
        match life.order() {
            Order::Stop => return Poll::Ready(Ok(())),
            Order::Finish if !finishing => {
                finishing = true;
                finish(http.as_mut());
            }
            _ => {}
        }
        http.as_mut().poll(cx)
    })
    .await
}

/// A client that answers none of four probes is gone.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// What one connection takes of all, and of its address.
type Places = (Place, Option<ClientPlace>);

/// How long it may take to find out which credentials have ended.
const CREDENTIALS_LIMIT: Duration = Duration::from_secs(1);

/// How often it is looked which connections give way.
const ROOM_CHECK: Duration = Duration::from_millis(50);

/// How often exchanges are checked, and from which age on: what ends a session ends them within a second.
const EXCHANGE_CHECK: Duration = Duration::from_millis(400);

/// Bytes of one HTTP/2 stream's answer held for a client that does not read.
const STREAM_BUFFER: usize = 64 << 10;

/// The client left before it was accepted; the next one has nothing to do with it.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
