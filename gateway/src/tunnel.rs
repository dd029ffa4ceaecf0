//! An upgraded connection (WebSocket and its like): bytes both ways until one side ends.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use crate::{
    body,
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
    if let Some(forwarded) = request.exchange.forwarded() {
        exchange.set_forwarded(forwarded.clone());
    }
    entry.life.enter(Arc::new(exchange));
    tokio::spawn(async move {
        let metrics = &connection.gateway.metrics;
        count(&metrics.tunnels);
        count(&metrics.in_flight);
        let size = connection.gateway.settings.tunnel_buffer;
        let ended = run(&entry, client, instance, size).await;
        metrics.in_flight.fetch_sub(1, Relaxed);
        if let Some(Err(error)) = ended {
            tracing::debug!(%error, "a tunnel ended with an error");
        }
    });
}

async fn run(entry: &Entry, client: OnUpgrade, instance: OnUpgrade, size: usize) -> Option<io::Result<(u64, u64)>> {
    let work = async {
        let client = client.await.map_err(io::Error::other)?;
        let instance = instance.await.map_err(io::Error::other)?;
        let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
        copy_bidirectional_with_sizes(&mut client, &mut instance, size, size).await
    };
    entry.life.unless(Order::Stop, work).await
}
