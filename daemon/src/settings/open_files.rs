//! Fits the limits on connections into the limit on open files.

use openorch_gateway::HttpSettings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files reserved for the store, probes, lookups and the like.
const RESERVED_FILES: usize = 256;
/// Applies even if the limit is too low for regular operation.
const MIN_CONNECTIONS: usize = 32;

/// Raises the limit on open files to the hard limit, because each connection uses one, and lowers the limits on
/// connections and requests to what that allows.
pub fn fit_open_files(http: &mut HttpSettings) {
    raise_limit();
    lower_limits(http);
}

fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("cannot raise the limit on open files, which stays at {:?}: {error}", limit.current);
    }
}

fn lower_limits(http: &mut HttpSettings) {
    let allowed = possible_connections();
    for (value, variable) in [
        (&mut http.max_connections, "OPENORCH_HTTP_MAX_CONNECTIONS"),
        (&mut http.max_requests, "OPENORCH_HTTP_MAX_REQUESTS"),
    ] {
        if *value > allowed {
            tracing::warn!(
                "{variable} is {value}, but the limit on open files allows only {allowed}, which applies; raise the limit with \
                 `ulimit -n` or LimitNOFILE"
            );
            *value = allowed;
        }
    }
}

/// Maximum client connections within the limit on open files, with as many connections to instances.
fn possible_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    (files.saturating_sub(RESERVED_FILES) / 2).max(MIN_CONNECTIONS)
}
