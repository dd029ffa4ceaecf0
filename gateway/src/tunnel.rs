//! An upgraded connection (WebSocket and its like): bytes both ways until one side ends.

use std::{
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf, split},
    time::timeout,
};

use crate::{
    Settings, body,
    exchange::{Exchange, Handle},
    life::{Entry, Order},
    metrics::count,
};

/// Joins the two ends once both have switched. Outlives the connection's request, so it is entered among the open
/// ones itself: a daemon that stops cuts it after the drain time.
pub fn join(request: &body::Request, client: OnUpgrade, instance: OnUpgrade) {
    let connection = request.connection().clone();
    let entry = connection.lives.enter(&connection.clock);
    entry.life.begin();
    let exchange = Exchange::new(Handle::Connection(entry.life.clone()), connection.clock.now(), None, false);
    if let Some(service) = request.exchange.service() {
        exchange.set_service(service.clone());
    }
    if let Some(credential) = request.exchange.credential() {
        exchange.set_credential(credential.clone());
    }
    entry.life.enter(Arc::new(exchange));
    tokio::spawn(async move {
        let metrics = &connection.gateway.metrics;
        count(&metrics.tunnels);
        count(&metrics.in_flight);
        let ended = run(&entry, client, instance, &connection.gateway.settings).await;
        metrics.in_flight.fetch_sub(1, Relaxed);
        if let Some(Err(error)) = ended {
            tracing::debug!(%error, "a tunnel ended with an error");
        }
    });
}

async fn run(entry: &Entry, client: OnUpgrade, instance: OnUpgrade, settings: &Settings) -> Option<io::Result<()>> {
    let size = settings.tunnel_buffer;
    let work = async {
        let (from_client, to_client) = split(TokioIo::new(client.await.map_err(io::Error::other)?));
        let (from_instance, to_instance) = split(TokioIo::new(instance.await.map_err(io::Error::other)?));
        let (up, down) = (pass(from_client, to_instance, size), pass(from_instance, to_client, size));
        let (mut up, mut down) = (pin!(up), pin!(down));
        // Each side may say that it sends no more; what the other still has to say has its time.
        tokio::select! {
            ended = &mut up => {
                ended?;
                timeout(settings.half_closed, down).await.unwrap_or(Ok(()))
            }
            ended = &mut down => {
                ended?;
                timeout(settings.half_closed, up).await.unwrap_or(Ok(()))
            }
        }
    };
    entry.life.unless(Order::Stop, work).await
}

/// Passes on what one side sends, and its end.
async fn pass(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, size: usize) -> io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(size, from), &mut to).await?;
    to.shutdown().await
}
