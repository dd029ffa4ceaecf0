//! Every limit and duration of the data plane, with the defaults of contract decision 23.

use std::{sync::Arc, time::Duration};

use openorch_chassis::forwarded::NetworkList;

use crate::Tls;

/// The usual [`Settings::exempt_addresses`].
pub const LOOPBACK: &str = "127.0.0.0/8,::1";

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
    /// Open connections of one client address (an IPv6 address counts as its /64); beyond it, new ones are closed. A
    /// trusted proxy may have three quarters of all.
    pub connections_per_address: usize,
    /// Requests in progress, tunnels included; beyond it 503.
    pub max_requests: usize,
    /// Requests in progress of one client address; beyond it 429. A trusted proxy may have three quarters of all.
    pub requests_per_address: usize,
    /// Streams of one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// How long a client may leave a piece of a built-in operation's answer untaken.
    pub write_timeout: Duration,
    /// The same of a service's answer.
    pub forwarded_write_timeout: Duration,
    /// How long a client may be silent in the middle of a body for a service that has not answered yet.
    pub forwarded_read_timeout: Duration,
    /// Bytes that untaken answers of services may hold; beyond it those untaken for longest end. One client address may
    /// have a tenth, a trusted proxy three quarters.
    pub answer_memory: usize,
    /// Pause in accepting when no connection can be accepted, mostly for want of file descriptors.
    pub accept_pause: Duration,
    /// How long a connection to an instance is kept unused. Below the 5 s after which common servers close theirs:
    /// a request sent into a closing connection is lost.
    pub pool_idle: Duration,
    /// How old a connection to an instance may become.
    pub pool_age: Duration,
    /// Unused connections kept per instance.
    pub pool_size: usize,
    /// How long a tunnel goes on of which one side has ended and the other says nothing: a client that is gone looks the same.
    pub half_closed: Duration,
    /// Bytes held per direction of a tunnel; most tunnels are idle.
    pub tunnel_buffer: usize,
    /// `OPENORCH_TRUSTED_PROXIES`.
    pub trusted_proxies: NetworkList,
    /// Addresses to which no share of connections and requests applies.
    pub exempt_addresses: NetworkList,
    /// `OPENORCH_TLS_CERT` and `OPENORCH_TLS_KEY`, which may be read again.
    pub tls: Option<Arc<Tls>>,
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
            connections_per_address: 2_000,
            max_requests: 20_000,
            requests_per_address: 2_000,
            streams_per_connection: 100,
            write_timeout: Duration::from_secs(60),
            forwarded_write_timeout: Duration::from_secs(300),
            forwarded_read_timeout: Duration::from_secs(300),
            answer_memory: 1 << 30,
            accept_pause: Duration::from_millis(100),
            pool_idle: Duration::from_secs(4),
            pool_age: Duration::from_secs(300),
            pool_size: 1024,
            half_closed: Duration::from_secs(30),
            tunnel_buffer: 8 << 10,
            trusted_proxies: NetworkList::default(),
            exempt_addresses: NetworkList::parse(LOOPBACK).unwrap_or_default(),
            tls: None,
        }
    }
}
