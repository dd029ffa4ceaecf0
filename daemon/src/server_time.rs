//! With PostgreSQL the daemon uses the server's time (decision "Clock jumps"): it queries the time at the start and
//! every ten seconds, and adds this machine's uptime in between. SQLite uses the machine's clock.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use openorch_chassis::clock::{Clock, ServerClock};
use openorch_store::Store;

use crate::StartError;

/// Interval of the time queries.
const QUERY_INTERVAL: Duration = Duration::from_secs(10);
/// Slower answers are too imprecise; at runtime they are ignored.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);
/// Clock difference above which a warning is logged.
const WARN_DIFFERENCE: SignedDuration = SignedDuration::from_secs(5);

/// The clock for stored data.
pub struct StoreClock {
    pub clock: Arc<dyn Clock>,
    /// The same clock, if the server sets it.
    server: Option<Arc<ServerClock>>,
}

impl StoreClock {
    /// The server's time if the store has a server, otherwise that of `machine`.
    pub async fn for_store(store: &dyn Store, machine: Arc<dyn Clock>) -> Result<StoreClock, StartError> {
        if !machine.yields_to_server() {
            return Ok(StoreClock { clock: machine, server: None });
        }
        let Some((time, _)) = query_time(store, &*machine).await? else {
            return Ok(StoreClock { clock: machine, server: None });
        };
        let difference = machine.now().duration_since(time);
        if difference.abs() > WARN_DIFFERENCE {
            tracing::warn!(
                "this machine's clock differs from the database server's by {difference:#}; the server's time is used for \
                 sessions, tokens, the audit log and all other stored data"
            );
        }
        let server = Arc::new(ServerClock::new(machine, time));
        Ok(StoreClock { clock: server.clone(), server: Some(server) })
    }

    /// Queries the server's time periodically; returns immediately if there is no server.
    pub async fn keep_synchronized(self, store: Arc<dyn Store>) {
        let Some(clock) = self.server else { return };
        loop {
            tokio::time::sleep(QUERY_INTERVAL).await;
            match query_time(&*store, &*clock).await {
                Ok(Some((time, round_trip))) if round_trip <= MAX_ROUND_TRIP => {
                    let adjustment = clock.set(time);
                    if adjustment.abs() > WARN_DIFFERENCE {
                        tracing::warn!("the database server's clock moved by {adjustment:#}; the daemon follows it");
                    }
                }
                Ok(_) => {}
                // The clock continues by this machine's uptime.
                Err(error) => tracing::debug!("cannot query the database server's time: {error}"),
            }
        }
    }
}

/// The server's current time and the round-trip time of the query; `None` without a server.
async fn query_time(store: &dyn Store, clock: &dyn Clock) -> Result<Option<(Timestamp, Duration)>, StartError> {
    let before = clock.uptime();
    let answer = store.server_time().await?;
    let round_trip = clock.uptime().saturating_sub(before);
    let Some(time) = answer else { return Ok(None) };
    let time = Timestamp::try_from(time)
        .and_then(|time| time.checked_add(round_trip / 2))
        .map_err(|error| StartError(format!("the time of the database server is invalid: {error}")))?;
    Ok(Some((time, round_trip)))
}
