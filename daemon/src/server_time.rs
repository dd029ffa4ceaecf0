//! The time on PostgreSQL is the server's (decision "Clock jumps"): asked at the start and every ten seconds, and moved on
//! by this machine's uptime between. SQLite has no time but the machine's.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use openorch_chassis::clock::{Clock, ServerClock};
use openorch_store::Store;

use crate::StartError;

/// How often the server is asked.
const EVERY: Duration = Duration::from_secs(10);
/// An answer that took longer says too little; while the daemon runs it is left out.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// What the machine's clock may differ before the log says so.
const WORTH_TELLING: SignedDuration = SignedDuration::from_secs(5);

/// The time of what a daemon stores.
pub struct Time {
    pub clock: Arc<dyn Clock>,
    /// The same clock where a server sets it.
    server: Option<Arc<ServerClock>>,
}

impl Time {
    /// The server's time where the store has a server, otherwise that of `machine`.
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
                "this machine's clock is {away:#} away from that of the database server; the server's time counts for \
                 sessions, tokens, the audit log and all else that is stored"
            );
        }
        let server = Arc::new(ServerClock::new(machine, time));
        Ok(Time { clock: server.clone(), server: Some(server) })
    }

    /// Asks the server again and again; ends at once where there is none.
    pub async fn follow(self, store: Arc<dyn Store>) {
        let Some(clock) = self.server else { return };
        loop {
            tokio::time::sleep(EVERY).await;
            match ask(&*store, &*clock).await {
                Ok(Some((time, round_trip))) if round_trip <= LONGEST_ROUND_TRIP => {
                    let away = clock.set(time);
                    if away.abs() > WORTH_TELLING {
                        tracing::warn!("the database server's clock moved by {away:#}; its time counts");
                    }
                }
                Ok(_) => {}
                // The clock goes on by this machine's uptime.
                Err(error) => tracing::debug!("the database server did not say what time it is: {error}"),
            }
        }
    }
}

/// The server's time now, and how long the answer took; `None` where there is no server.
async fn ask(store: &dyn Store, clock: &dyn Clock) -> Result<Option<(Timestamp, Duration)>, StartError> {
    let before = clock.uptime();
    let answer = store.server_time().await?;
    let round_trip = clock.uptime().saturating_sub(before);
    let Some(time) = answer else { return Ok(None) };
    let time = Timestamp::try_from(time)
        .and_then(|time| time.checked_add(round_trip / 2))
        .map_err(|error| StartError(format!("the time of the database server cannot be used: {error}")))?;
    Ok(Some((time, round_trip)))
}
