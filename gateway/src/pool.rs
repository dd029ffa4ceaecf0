//! An instance as an upstream, and the pool of connections to it.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::HeaderValue;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use openorch_chassis::outbound::{Connection, InstanceUrl};

use crate::{Settings, body::RequestBody};

/// Size of the read buffer of a connection to an instance; also the maximum size of a response head (decision
/// "Forwarding").
pub const READ_BUFFER: usize = 256 << 10;

pub struct Upstream {
    pub id: Arc<str>,
    pub url: Arc<InstanceUrl>,
    /// The value of `Host`.
    pub host: HeaderValue,
    idle: Mutex<Vec<UpstreamConn>>,
}

/// A connection to an instance.
pub struct UpstreamConn {
    pub http: http1::SendRequest<RequestBody>,
    /// When it was opened and last returned to the pool, in milliseconds of the server's clock.
    opened_at: u64,
    idle_since: u64,
}

impl Upstream {
    pub fn new(id: Arc<str>, url: Arc<InstanceUrl>) -> Upstream {
        // A parsed URL only has bytes that are valid in a header.
        let host = HeaderValue::from_str(url.authority());
        Upstream { id, host: host.unwrap_or(HeaderValue::from_static("invalid")), url, idle: Mutex::default() }
    }

    /// Takes the most recently used connection, so that the others can reach their idle timeout.
    pub fn acquire(&self, now: u64, settings: &Settings) -> Option<UpstreamConn> {
        loop {
            let sender = self.idle().pop()?;
            if sender.is_usable(now, settings) {
                return Some(sender);
            }
        }
    }

    pub fn release(&self, mut sender: UpstreamConn, now: u64, settings: &Settings) {
        sender.idle_since = now;
        if !sender.is_usable(now, settings) {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < settings.forward.upstream_max_idle {
            idle.push(sender);
        }
    }

    /// Closes expired connections, which [`Upstream::acquire`] would only do at the next request.
    pub fn sweep(&self, now: u64, settings: &Settings) {
        let mut idle = self.idle();
        if idle.is_empty() {
            return;
        }
        let (fresh, stale): (Vec<_>, Vec<_>) = idle.drain(..).partition(|sender| sender.is_usable(now, settings));
        *idle = fresh;
        drop(idle);
        drop(stale);
    }

    pub fn close_idle(&self) {
        drop(std::mem::take(&mut *self.idle()));
    }

    fn idle(&self) -> MutexGuard<'_, Vec<UpstreamConn>> {
        self.idle.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl UpstreamConn {
    /// Starts HTTP on a new connection.
    pub async fn handshake(stream: Connection, now: u64) -> hyper::Result<UpstreamConn> {
        // Bounds the memory of a response that the client does not read.
        let (http, connection) =
            http1::Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // An error is also returned to the request in progress; on an idle connection it can be ignored.
            let _ = connection.with_upgrades().await;
        });
        Ok(UpstreamConn { http, opened_at: now, idle_since: now })
    }

    fn is_usable(&self, now: u64, settings: &Settings) -> bool {
        let within = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) <= limit.as_millis();
        !self.http.is_closed()
            && within(self.idle_since, settings.forward.upstream_idle_timeout)
            && within(self.opened_at, settings.forward.upstream_max_lifetime)
    }
}
