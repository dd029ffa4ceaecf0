//! With PostgreSQL the daemon uses the server's time (decision "Clock jumps"): it queries the time at the start and
//! every ten seconds, and adds this machine's uptime in between. SQLite uses the machine's clock.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use openorch_chassis::clock::{Clock, ServerClock};
use openorch_store::Store;

use crate::StartError;

/// Interval of the time queries.
const EVERY: Duration = Duration::from_secs(10);
/// Slower answers are too imprecise; at runtime they are ignored.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// Clock difference above which a warning is logged.
const WORTH_TELLING: SignedDuration = SignedDuration::from_secs(5);

/// The clock for stored data.
pub struct Time {
    pub clock: Arc<dyn Clock>,
    /// The same clock, if the server sets it.
    server: Option<Arc<ServerClock>>,
}

impl Time {
    /// The server's time if the store has a server, otherwise that of `machine`.
    pub async fn of(store: &dyn Store, machine: Arc<dyn Clock>) -> Result<Time, StartError> {
        if !machine.yields_to_server() {
            return Ok(Time { clock: machine, server: None });
        }
        let Some((time, _)) = ask(store, &*machine).await? else {
            return Ok(Time { clock: machine, server: None });
        };
        let away = machine.now().duration_since(time);
        if away.abs() > WORTH_TELLING {
            tracing::warn!(
                "this machine's clock differs from the database server's by {away:#}; the server's time is used for \
                 sessions, tokens, the audit log and all other stored data"
            );
        }
        let server = Arc::new(ServerClock::new(machine, time));
        Ok(Time { clock: server.clone(), server: Some(server) })
    }

    /// Queries the server's time periodically; returns immediately if there is no server.
    pub async fn follow(self, store: Arc<dyn Store>) {
        let Some(clock) = self.server else { return };
        loop {
            tokio::time::sleep(EVERY).await;
            match ask(&*store, &*clock).await {
                Ok(Some((time, round_trip))) if round_trip <= LONGEST_ROUND_TRIP => {
                    let away = clock.set(time);
                    if away.abs() > WORTH_TELLING {
                        tracing::warn!("the database server's clock moved by {away:#}; the daemon follows it");
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
async fn ask(store: &dyn Store, clock: &dyn Clock) -> Result<Option<(Timestamp, Duration)>, StartError> {
    let before = clock.uptime();
    let answer = store.server_time().await?;
    let round_trip = clock.uptime().saturating_sub(before);
    let Some(time) = answer else { return Ok(None) };
    let time = Timestamp::try_from(time)
        .and_then(|time| time.checked_add(round_trip / 2))
        .map_err(|error| StartError(format!("the time of the database server is invalid: {error}")))?;
    Ok(Some((time, round_trip)))
}
