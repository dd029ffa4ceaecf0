//! The settings of the data plane, with the defaults of decision "Limits".

use std::time::Duration;

use openorch_chassis::{
    forwarded::NetworkList,
    settings,
    settings::{ByteSize, Fraction, Interval, RawSettings, Settings as _},
};

settings! {
    /// Client connections: `[http]`.
    pub struct HttpSettings in "http" {
        /// Maximum size of a request head; larger ones get 431.
        max_header_bytes: ByteSize = "64KiB";
        /// Maximum number of header fields of a request; more get 431.
        max_headers: usize = "100";
        /// Maximum size of a request target; longer ones get 414.
        max_uri_bytes: ByteSize = "32KiB";
        /// Timeout for the first byte of a new connection.
        first_byte_timeout: Duration = "15s";
        /// Timeout for receiving a request head.
        header_timeout: Duration = "15s";
        /// Idle timeout of a connection between requests.
        keepalive_timeout: Duration = "75s";
        /// Time that requests in progress have to complete at shutdown.
        drain: Duration = "10s", as "OPENORCH_DRAIN";
        /// Maximum number of client connections, of which a sixteenth is reserved for exempt addresses; beyond it idle connections are evicted and new ones wait; at most half of the limit on open files.
        max_connections: usize = "20000";
        /// Maximum number of connections per client address (an IPv6 /64 counts as one); further ones are closed; a trusted proxy may have three quarters of the total.
        max_connections_per_address: Option<usize> = "a tenth of OPENORCH_HTTP_MAX_CONNECTIONS";
        /// Maximum number of concurrent requests and tunnels; further ones get 503; at most half of the limit on open files.
        max_requests: usize = "20000";
        /// Maximum number of concurrent requests per client address; further ones get 429; a trusted proxy may have three quarters of the total.
        max_requests_per_address: Option<usize> = "a tenth of OPENORCH_HTTP_MAX_REQUESTS";
        /// Addresses and networks (CIDR) exempt from the limits per client address.
        address_limit_exempt: NetworkList = "127.0.0.0/8,::1";
        /// Maximum number of concurrent streams of an HTTP/2 connection.
        max_streams_per_connection: u32 = "100";
        /// Timeout for a client to read each piece of a response of a built-in operation.
        write_timeout: Duration = "60s";
        /// Pause after a failure to accept connections, such as too many open files.
        accept_pause: Interval = "100ms";
        /// Networks (CIDR) of trusted proxies, whose forwarding headers are used.
        trusted_proxies: NetworkList = "none", as "OPENORCH_TRUSTED_PROXIES";
        /// Sampling rate of the access log, from 0 to 1; its target in the log filter is `access`.
        access_log: Fraction = "0";
    }
}

settings! {
    /// Requests to services behind the gateway: `[gateway]`.
    pub struct ForwardSettings in "gateway" {
        /// Proxy hops after which a request is rejected as a loop (508).
        max_hops: usize = "5";
        /// Time to wait for 100 Continue from an instance before a body with Expect: 100-continue is sent anyway.
        expect_continue_timeout: Duration = "1s";
        // Below the 5 s after which common servers close idle connections: a request sent to a closing connection is lost.
        /// Idle timeout of pooled connections to an instance.
        upstream_idle_timeout: Duration = "4s";
        /// Maximum age of a connection to an instance.
        upstream_max_lifetime: Duration = "5m";
        /// Maximum number of idle connections per instance.
        upstream_max_idle: usize = "1024";
        /// Timeout for a client to read each piece of a service's response.
        write_timeout: Duration = "5m";
        /// Idle timeout of a request body for a service that has not responded yet.
        read_timeout: Duration = "5m";
        /// Time that a client may continue to send a body after the response is complete.
        linger_timeout: Duration = "5s";
        /// Memory budget of service responses that clients have not read, and of request heads above 4 KiB that wait for a response (a tenth per address, three quarters for a trusted proxy, a tenth per client behind it); beyond it the oldest are aborted.
        max_response_memory: ByteSize = "1GiB";
        /// Idle timeout of a half-closed tunnel.
        half_closed_timeout: Duration = "30s";
        /// Size of the buffer for each direction of a tunnel.
        tunnel_buffer: ByteSize = "8KiB";
    }
}

/// The settings of the data plane.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub http: HttpSettings,
    pub forward: ForwardSettings,
}

impl Settings {
    /// Parses the settings, with defaults for those that are not set.
    pub fn read(given: &RawSettings) -> Result<Settings, String> {
        Ok(Settings { http: HttpSettings::read(given)?, forward: ForwardSettings::read(given)? })
    }
}

impl HttpSettings {
    /// The maximum number of connections per client address.
    pub fn connections_per_address(&self) -> usize {
        self.max_connections_per_address.unwrap_or(self.max_connections / 10)
    }

    /// The maximum number of concurrent requests per client address.
    pub fn requests_per_address(&self) -> usize {
        self.max_requests_per_address.unwrap_or(self.max_requests / 10)
    }
}
