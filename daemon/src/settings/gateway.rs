//! What the settings say to the gateway, within what the system lets be open.

use std::sync::Arc;

use openorch_chassis::forwarded::NetworkList;
use openorch_gateway::Tls;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Settings, count, span};
use crate::StartError;

/// Open files left to the store, probes, lookups and the like.
const RESERVED_FILES: usize = 256;
/// Also where the limit is so low that hardly anything works.
const LEAST_CONNECTIONS: usize = 32;

impl Settings {
    pub fn gateway(&self) -> Result<openorch_gateway::Settings, StartError> {
        let (given, usual) = (&self.given, openorch_gateway::Settings::default());
        let trusted_proxies = match &given.trusted_proxies {
            Some(text) => NetworkList::parse(text).map_err(|e| StartError(format!("OPENORCH_TRUSTED_PROXIES: {e}")))?,
            None => usual.trusted_proxies,
        };
        let exempt_addresses = match &given.address_limit_exempt {
            Some(text) => {
                NetworkList::parse(text).map_err(|e| StartError(format!("OPENORCH_ADDRESS_LIMIT_EXEMPT: {e}")))?
            }
            None => usual.exempt_addresses.clone(),
        };
        let possible = possible_connections();
        let within = |wanted: Option<usize>, usual: usize, name: &str| {
            let wanted = wanted.unwrap_or(usual);
            if wanted > possible {
                tracing::warn!(
                    "{name} is {wanted}, and the limit on open files leaves {possible}, which count: raise the limit with \
                     `ulimit -n` or LimitNOFILE"
                );
            }
            wanted.min(possible)
        };
        let connections = within(count(given.connections), usual.connections, "OPENORCH_CONNECTIONS");
        let max_requests = within(count(given.max_requests), usual.max_requests, "OPENORCH_MAX_REQUESTS");
        let tls = match (&given.tls_cert, &given.tls_key) {
            (Some(cert), Some(key)) => Some({
                let wrong = |error| StartError(format!("OPENORCH_TLS_CERT and OPENORCH_TLS_KEY: {error}"));
                Arc::new(Tls::read(cert, key).map_err(wrong)?)
            }),
            _ => None,
        };
        Ok(openorch_gateway::Settings {
            head_bytes: count(given.head_bytes).unwrap_or(usual.head_bytes),
            head_fields: count(given.head_fields).unwrap_or(usual.head_fields),
            target_bytes: count(given.target_bytes).unwrap_or(usual.target_bytes),
            expect: span(given.expect_timeout, usual.expect),
            passages: count(given.passages).unwrap_or(usual.passages),
            pool_idle: span(given.pool_idle, usual.pool_idle),
            pool_age: span(given.pool_age, usual.pool_age),
            pool_size: count(given.pool_size).unwrap_or(usual.pool_size),
            first_byte: span(given.first_byte_timeout, usual.first_byte),
            head: span(given.head_timeout, usual.head),
            idle: span(given.idle_timeout, usual.idle),
            drain: span(given.drain, usual.drain),
            connections,
            connections_per_address: count(given.max_connections_per_address).unwrap_or(connections / 10),
            max_requests,
            requests_per_address: count(given.max_requests_per_address).unwrap_or(max_requests / 10),
            streams_per_connection: count(given.max_streams_per_connection)
                .map_or(usual.streams_per_connection, |most| most.try_into().unwrap_or(u32::MAX)),
            write_timeout: span(given.write_timeout, usual.write_timeout),
            forwarded_write_timeout: span(given.gateway_write_timeout, usual.forwarded_write_timeout),
            forwarded_read_timeout: span(given.gateway_read_timeout, usual.forwarded_read_timeout),
            answer_memory: count(given.max_answer_memory).unwrap_or(usual.answer_memory),
            exempt_addresses,
            trusted_proxies,
            tls,
            ..usual
        })
    }
}

/// As many open files as the system lets this process have: each connection is one.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}

/// How many connections of clients may be open, and as many to instances, within the limit on open files.
fn possible_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    (files.saturating_sub(RESERVED_FILES) / 2).max(LEAST_CONNECTIONS)
}
