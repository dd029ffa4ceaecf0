//! Tunnels: upgraded connections (such as WebSocket), copied in both directions until one side ends.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, split},
    time::timeout,
};

use crate::{
    Settings, body,
    conn_tracker::{ConnGuard, Shutdown},
    exchange::{AbortHandle, Exchange},
};

/// Starts copying once both sides have upgraded. A tunnel outlives the request of its connection, so it is tracked
/// separately: a shutdown closes it after the drain time.
pub fn start(request: &body::RequestGuard, client: OnUpgrade, instance: OnUpgrade) {
    let connection = request.connection().clone();
    let entry = connection.tracker.register(&connection.clock, None);
    entry.state.request_started();
    let exchange =
        Exchange::new(AbortHandle::Connection(entry.state.clone()), connection.clock.now(), [None, None], false);
    if let Some(service) = request.exchange.service() {
        exchange.set_service(service.clone());
    }
    if let Some(credential) = request.exchange.credential() {
        exchange.set_credential(credential.clone());
    }
    entry.state.add_exchange(Arc::new(exchange));
    // It counts in the limits of its client, like the request that it was.
    let slot = request.in_flight();
    tokio::spawn(async move {
        let metrics = &connection.gateway.metrics;
        metrics.tunnels.inc();
        let ended = run(&entry, client, instance, &connection.gateway.settings).await;
        drop(slot);
        if let Some(Err(error)) = ended {
            tracing::debug!(%error, "a tunnel ended with an error");
        }
    });
}

async fn run(entry: &ConnGuard, client: OnUpgrade, instance: OnUpgrade, settings: &Settings) -> Option<io::Result<()>> {
    let size = *settings.forward.tunnel_buffer;
    let work = async {
        let (from_client, to_client) = split(TokioIo::new(client.await.map_err(io::Error::other)?));
        let (from_instance, to_instance) = split(TokioIo::new(instance.await.map_err(io::Error::other)?));
        let moved = AtomicU64::new(0);
        let (up, down) = (copy(from_client, to_instance, size, &moved), copy(from_instance, to_client, size, &moved));
        let (mut up, mut down) = (pin!(up), pin!(down));
        // After one side closed its sending half, the other direction continues until it is idle for too long.
        tokio::select! {
            ended = &mut up => {
                ended?;
                until_idle(down, &moved, settings.forward.half_closed_timeout).await
            }
            ended = &mut down => {
                ended?;
                until_idle(up, &moved, settings.forward.half_closed_timeout).await
            }
        }
    };
    entry.state.run_until(Shutdown::Immediate, work).await
}

/// Copies one direction including its end, and counts the bytes.
async fn copy(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    size: usize,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(size, from);
    loop {
        let bytes = from.fill_buf().await?;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        let count = to.write(bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        from.consume(count);
        moved.fetch_add(count as u64, Relaxed);
    }
}

/// Continues one direction of a half-closed tunnel until it is idle for `silence`: a client that disappeared looks like one
/// that closed its sending half.
async fn until_idle(
    mut rest: Pin<&mut impl Future<Output = io::Result<()>>>,
    moved: &AtomicU64,
    idle_timeout: Duration,
) -> io::Result<()> {
    loop {
        let before = moved.load(Relaxed);
        match timeout(idle_timeout, &mut rest).await {
            Ok(ended) => return ended,
            Err(_) if moved.load(Relaxed) == before => return Ok(()),
            Err(_) => {}
        }
    }
}
