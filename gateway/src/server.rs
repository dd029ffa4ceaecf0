//! Takes connections and keeps them: accepting, TLS, HTTP/1.1 and HTTP/2, limits on waiting, and the end.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::{Duration, Instant},
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use openorch_chassis::{Peer, forwarded::Hop};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Gateway,
    connection::{Connection, Socket, Stream},
    life::{Clock, Entry, Lives, Order},
    metrics::count,
    service::serve,
};

/// The listener side of a [`Gateway`].
pub struct Server {
    gateway: Arc<Gateway>,
    clock: Arc<Clock>,
    lives: Arc<Lives>,
    room: Arc<Semaphore>,
    http: auto::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
}

impl Server {
    pub fn new(gateway: Arc<Gateway>) -> Server {
        let settings = &gateway.settings;
        let mut http = auto::Builder::new(TokioExecutor::new());
        // A client that closes its sending side has left: `half_close` stays off. hyper's own time-out for heads is
        // not used, since it counts between requests too; `life` does that work for all connections at once.
        http.http1().max_buf_size(settings.head_bytes.max(8192));
        if settings.head_fields != 100 {
            // The default of 100 lives on the stack, any other number costs allocations.
            http.http1().max_headers(settings.head_fields);
        }
        http.http2().timer(TokioTimer::new()).max_header_list_size(settings.head_bytes.try_into().unwrap_or(u32::MAX));
        Server {
            clock: Arc::new(Clock::start()),
            lives: Arc::default(),
            room: Arc::new(Semaphore::new(settings.connections)),
            http,
            tls: settings.tls.clone().map(TlsAcceptor::from),
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
        shutdown.await;
        drop(stop);
        server.lives.give_all(Order::Finish);
        let drain = server.gateway.settings.drain;
        if tokio::time::timeout(drain, server.lives.all_ended()).await.is_err() {
            tracing::warn!(connections = server.lives.count(), "requests still running after {drain:?} are cut");
            server.lives.give_all(Order::Stop);
            // They end at their next turn; nothing of theirs is waited for.
            let _ = tokio::time::timeout(Duration::from_secs(1), server.lives.all_ended()).await;
        }
        tasks.shutdown().await;
    }

    async fn accept(self: Arc<Server>, listener: TcpListener, mut stopped: watch::Receiver<()>) {
        let mut complaint: Option<Instant> = None;
        loop {
            let next = async {
                let room = self.room.clone().acquire_owned().await;
                (room, listener.accept().await)
            };
            let (room, accepted) = tokio::select! {
                next = next => next,
                _ = stopped.changed() => return,
            };
            let Ok(room) = room else { return };
            match accepted {
                Ok((stream, from)) => self.clone().start(stream, from, room),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Mostly: out of file descriptors. What is open goes on, and may free some.
                    if complaint.is_none_or(|last| last.elapsed() > Duration::from_secs(60)) {
                        tracing::error!(%error, "no connection can be accepted; raise the limit on open files if this goes on");
                        complaint = Some(Instant::now());
                    }
                    sleep(self.gateway.settings.accept_pause).await;
                }
            }
        }
    }

    fn start(self: Arc<Server>, stream: TcpStream, from: SocketAddr, room: OwnedSemaphorePermit) {
        let entry = self.lives.enter(&self.clock);
        tokio::spawn(async move {
            let metrics = self.gateway.metrics.clone();
            count(&metrics.connections);
            if let Err(error) = self.keep(stream, from, &entry).await {
                tracing::debug!(%error, "a connection ended with an error");
            }
            metrics.connections.fetch_sub(1, Relaxed);
            drop(entry);
            drop(room);
        });
    }

    async fn keep(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        entry: &Entry,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let life = &entry.life;
        // Without it small answers wait for acknowledgements; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let socket = Socket { stream, life: life.clone(), clock: self.clock.clone() };
        let stream = match &self.tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                let Some(secured) = life.unless(Order::Finish, tls.accept(socket)).await else {
                    return Ok(());
                };
                let secured = secured?;
                let http2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
                life.secured(http2, &self.clock);
                Stream::Tls(Box::new(secured))
            }
        };
        let peer = Arc::new(Peer { address: from, tls: self.tls.is_some() });
        let connection = Arc::new(Connection {
            gateway: self.gateway.clone(),
            clock: self.clock.clone(),
            lives: self.lives.clone(),
            life: life.clone(),
            hop: Hop::new(&peer, &self.gateway.settings.trusted_proxies),
            peer,
        });
        let service = service_fn(move |request| serve(connection.clone(), request));
        let http = self.http.serve_connection_with_upgrades(TokioIo::new(stream), service);
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
                    http.as_mut().graceful_shutdown();
                }
                _ => {}
            }
            http.as_mut().poll(cx)
        })
        .await
    }

    /// Time for all: the clock, the connections that waited too long, the unused ones to instances.
    async fn tick(self: Arc<Server>) {
        let settings = &self.gateway.settings;
        let shortest = settings.first_byte.min(settings.head).min(settings.idle).min(settings.pool_idle);
        let step = (shortest / 8).clamp(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            sleep(step).await;
            let now = self.clock.tick();
            self.lives.sweep(now, settings);
            self.gateway.table.sweep(now, settings);
        }
    }
}

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
