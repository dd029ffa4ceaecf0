//! Watches the clock. After it has jumped, nothing expires by age for a grace period, which is stored so that it
//! survives a restart (decision "Clock jumps").

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
/// Maximum difference between the stored and the remaining grace period, in seconds.
const STORE_INTERVAL: u64 = 3600;

/// The grace period left when the daemon stopped, to the hour.
pub async fn stored(store: &Arc<dyn Store>) -> Result<Duration> {
    let rows: Table<ClockGraceRow> = Table::new(store.clone(), &CLOCK_GRACE);
    Ok(rows.get(ID).await?.map_or(Duration::ZERO, |row| Duration::from_secs(row.value.seconds_left)))
}

pub struct ClockGrace {
    platform: Platform,
    rows: Table<ClockGraceRow>,
    /// The stored grace period, in seconds.
    stored: AtomicU64,
}

impl ClockGrace {
    pub async fn open(platform: &Platform) -> Result<ClockGrace> {
        let stored = stored(&platform.store).await?.as_secs().into();
        Ok(ClockGrace { rows: platform.table(&CLOCK_GRACE), stored, platform: platform.clone() })
    }
}

pub async fn watch(grace: Arc<ClockGrace>) {
    grace.platform.expiry.check_clock();
    let (left, stored) = (grace.platform.expiry.remaining().as_secs(), grace.stored.load(Ordering::Relaxed));
    if left.abs_diff(stored) < STORE_INTERVAL && (left > 0) == (stored > 0) {
        return;
    }
    let written = async {
        Ok::<_, openorch_chassis::Error>(
            grace.platform.store.commit(grace.rows.upsert(ID, &ClockGraceRow { seconds_left: left })?.into()).await?,
        )
    };
    match written.await {
        Ok(_) => grace.stored.store(left, Ordering::Relaxed),
        // Retried in a second. Store failures are logged where they occur.
        Err(error) => tracing::debug!("cannot store the clock grace period, retrying: {error:?}"),
    }
}
