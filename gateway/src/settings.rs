//! Every limit and duration of the data plane, with the defaults of contract decision 23.

use std::{sync::Arc, time::Duration};

use openorch_chassis::forwarded::TrustedProxies;

#[derive(Clone, Debug)]
pub struct Settings {
    /// A request's head; beyond it 431.
    pub head_bytes: usize,
    /// Fields in a request's head; beyond it 431.
    pub head_fields: usize,
    /// A request's target; beyond it 414.
    pub target_bytes: usize,
    /// From the opening of a connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two requests on a connection.
    pub idle: Duration,
    /// How long a body is held back for an instance that was sent `Expect: 100-continue` and says nothing.
    pub expect: Duration,
    /// A request that passed a gateway of ours so often goes in a circle; 508.
    pub passages: usize,
    /// `OPENORCH_DRAIN`: what running requests get when the daemon stops.
    pub drain: Duration,
    /// Open connections; beyond it, new ones wait.
    pub connections: usize,
    /// Pause in accepting when no connection can be accepted, mostly for want of file descriptors.
    pub accept_pause: Duration,
    /// How long a connection to an instance is kept unused. Below the 5 s after which common servers close theirs:
    /// a request sent into a closing connection is lost.
    pub pool_idle: Duration,
    /// How old a connection to an instance may become.
    pub pool_age: Duration,
    /// Unused connections kept per instance.
    pub pool_size: usize,
    /// Bytes held per direction of a tunnel; most tunnels are idle.
    pub tunnel_buffer: usize,
    /// `OPENORCH_TRUSTED_PROXIES`.
    pub trusted_proxies: TrustedProxies,
    /// `OPENORCH_TLS_CERT` and `OPENORCH_TLS_KEY`, through [`crate::server_config`].
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            head_bytes: 64 << 10,
            head_fields: 100,
            target_bytes: 32 << 10,
            first_byte: Duration::from_secs(15),
            head: Duration::from_secs(15),
            idle: Duration::from_secs(75),
            expect: Duration::from_secs(1),
            passages: 5,
            drain: Duration::from_secs(10),
            connections: 20_000,
            accept_pause: Duration::from_millis(100),
            pool_idle: Duration::from_secs(4),
            pool_age: Duration::from_secs(300),
            pool_size: 1024,
            tunnel_buffer: 8 << 10,
            trusted_proxies: TrustedProxies::default(),
            tls: None,
        }
    }
}
