//! How many connections may be open within the limit on open files.

use openorch_gateway::HttpSettings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files left to the store, probes, lookups and the like.
const RESERVED_FILES: usize = 256;
/// Also where the limit is so low that hardly anything works.
const MIN_CONNECTIONS: usize = 32;

/// Raises the limit on open files as far as the system lets this process, since each connection is one, and lowers what may
/// be open at once to what that allows.
pub fn fit_open_files(http: &mut HttpSettings) {
    raise_limit();
    limit(http);
}

fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}

fn limit(http: &mut HttpSettings) {
    let possible = possible_connections();
    for (value, variable) in [
        (&mut http.max_connections, "OPENORCH_HTTP_MAX_CONNECTIONS"),
        (&mut http.max_requests, "OPENORCH_HTTP_MAX_REQUESTS"),
    ] {
        if *value > possible {
            tracing::warn!(
                "{variable} is {value}, and the limit on open files leaves {possible}, which count: raise the limit with \
                 `ulimit -n` or LimitNOFILE"
            );
            *value = possible;
        }
    }
}

/// How many connections of clients may be open, and as many to instances, within the limit on open files.
fn possible_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    (files.saturating_sub(RESERVED_FILES) / 2).max(MIN_CONNECTIONS)
}
