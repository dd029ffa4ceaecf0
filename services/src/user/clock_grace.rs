//! Watches the clock, and stores how long nothing ends for its age after it jumped, so that a restart does not end that
//! (decision "Clock jumps").

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openorch_chassis::{Platform, Result};
use openorch_store::{Store, Table};

use crate::user::shared::rows::{CLOCK_GRACE, ClockGraceRow};

const ID: &str = "grace";
/// The stored time is at most so much longer than what is left, in seconds.
const STORED_EVERY: u64 = 3600;

/// What was left when the daemon stopped, to the hour.
pub async fn stored(store: &Arc<dyn Store>) -> Result<Duration> {
    let rows: Table<ClockGraceRow> = Table::new(store.clone(), &CLOCK_GRACE);
    Ok(rows.get(ID).await?.map_or(Duration::ZERO, |row| Duration::from_secs(row.value.seconds_left)))
}

pub struct ClockGrace {
    platform: Platform,
    rows: Table<ClockGraceRow>,
    /// How long nothing ends for its age, in seconds, as it is stored.
    stored: AtomicU64,
}

impl ClockGrace {
    pub async fn open(platform: &Platform) -> Result<ClockGrace> {
        let stored = stored(&platform.store).await?.as_secs().into();
        Ok(ClockGrace { rows: platform.table(&CLOCK_GRACE), stored, platform: platform.clone() })
    }
}

pub async fn watch(grace: Arc<ClockGrace>) {
    grace.platform.ages.look();
    let (left, stored) = (grace.platform.ages.grace_left().as_secs(), grace.stored.load(Ordering::Relaxed));
    if left.abs_diff(stored) < STORED_EVERY && (left > 0) == (stored > 0) {
        return;
    }
    let written = async {
        Ok::<_, openorch_chassis::Error>(
            grace.platform.store.commit(grace.rows.upsert(ID, &ClockGraceRow { seconds_left: left })?.into()).await?,
        )
    };
    match written.await {
        Ok(_) => grace.stored.store(left, Ordering::Relaxed),
        // It is tried again in a second; the store's own trouble is logged where it is met.
        Err(error) => tracing::debug!("that the clock jumped could not be stored yet: {error:?}"),
    }
}
