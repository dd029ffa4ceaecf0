//! Every limit and duration of the data plane, with its default (decision "Limits").

use std::time::Duration;

use openorch_chassis::{
    forwarded::NetworkList,
    settings,
    settings::{ByteSize, Fraction, Given, Interval, Settings as _},
};

settings! {
    /// Connections of clients: `[http]`.
    pub struct HttpSettings in "http" {
        /// Bytes of a request's header; beyond it 431.
        max_header_bytes: ByteSize = "64KiB";
        /// Fields of a request's header; beyond it 431.
        max_headers: usize = "100";
        /// Bytes of a request's target; beyond it 414.
        max_uri_bytes: ByteSize = "32KiB";
        /// Time from the opening of a connection to its first byte.
        first_byte_timeout: Duration = "15s";
        /// Time from the first byte of a request's header to its last.
        header_timeout: Duration = "15s";
        /// Time that a connection stays open between two requests.
        keepalive_timeout: Duration = "75s";
        /// Time that requests in progress have to end when the daemon stops.
        drain: Duration = "10s", as "OPENORCH_DRAIN";
        /// Open connections, beyond which those without a request give way and new ones wait (a sixteenth is for exempt addresses); at most half of the limit on open files.
        max_connections: usize = "20000";
        /// Open connections of one client address (an IPv6 /64 counts as one), beyond which new ones are closed; a trusted proxy may have three quarters of all.
        max_connections_per_address: Option<usize> = "a tenth of OPENORCH_HTTP_MAX_CONNECTIONS";
        /// Requests in progress, tunnels included, beyond which new ones are 503; at most half of the limit on open files.
        max_requests: usize = "20000";
        /// Requests in progress of one client address, beyond which new ones are 429; a trusted proxy may have three quarters of all.
        max_requests_per_address: Option<usize> = "a tenth of OPENORCH_HTTP_MAX_REQUESTS";
        /// Addresses and networks (CIDRs) without limits for each address.
        address_limit_exempt: NetworkList = "127.0.0.0/8,::1";
        /// Streams of one HTTP/2 connection.
        max_streams_per_connection: u32 = "100";
        /// Time in which a client must take each piece of a built-in operation's response.
        write_timeout: Duration = "60s";
        /// Pause in accepting connections when the system refuses them, mostly for want of file descriptors.
        accept_pause: Interval = "100ms";
        /// Networks (CIDRs) whose forwarding headers are believed.
        trusted_proxies: NetworkList = "none", as "OPENORCH_TRUSTED_PROXIES";
        /// Share of all requests that have a line in the access log, from 0 to 1; their target in the log filter is `access`.
        access_log: Fraction = "0";
    }
}

settings! {
    /// Requests to services behind the gateway: `[gateway]`.
    pub struct ForwardSettings in "gateway" {
        /// Proxy hops after which a request is rejected as a loop (508).
        max_hops: usize = "5";
        /// Time that a body announced with Expect: 100-continue waits for an instance that says nothing.
        expect_continue_timeout: Duration = "1s";
        // Below the 5 s after which common servers close theirs: a request sent into a closing connection is lost.
        /// Time that an unused connection to an instance is kept.
        upstream_idle_timeout: Duration = "4s";
        /// Maximum age of a connection to an instance.
        upstream_max_lifetime: Duration = "5m";
        /// Unused connections kept to each instance.
        upstream_max_idle: usize = "1024";
        /// Time in which a client must take each piece of a service's response.
        write_timeout: Duration = "5m";
        /// Time that a client may be silent in the middle of a body for a service that has not responded yet.
        read_timeout: Duration = "5m";
        /// Time that a client may go on sending a body whose response is complete.
        linger_timeout: Duration = "5s";
        /// Bytes of services' responses that wait for their clients (one address may have a tenth, a trusted proxy three quarters); beyond it those that wait longest end.
        max_response_memory: ByteSize = "1GiB";
        /// Time that a tunnel goes on of which one side has ended and the other is silent.
        half_closed_timeout: Duration = "30s";
        /// Bytes held for each direction of a tunnel.
        tunnel_buffer: ByteSize = "8KiB";
    }
}

/// What the data plane runs with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub http: HttpSettings,
    pub forward: ForwardSettings,
}

impl Settings {
    /// The values that were given, and the defaults of the others.
    pub fn read(given: &Given) -> Result<Settings, String> {
        Ok(Settings { http: HttpSettings::read(given)?, forward: ForwardSettings::read(given)? })
    }
}

impl HttpSettings {
    /// Open connections of one client address.
    pub fn connections_per_address(&self) -> usize {
        self.max_connections_per_address.unwrap_or(self.max_connections / 10)
    }

    /// Requests in progress of one client address.
    pub fn requests_per_address(&self) -> usize {
        self.max_requests_per_address.unwrap_or(self.max_requests / 10)
    }
}
