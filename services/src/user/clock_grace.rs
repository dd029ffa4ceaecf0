//! Watches the clock, and stores how long nothing ends for its age after it jumped, so that a restart does not end that
//! (contract decision 36).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use openorch_chassis::Result;
use openorch_store::{Store, Table};

use crate::user::{
    Users,
    rows::{CLOCK_GRACE, ClockGraceRow},
};

const ID: &str = "grace";
/// The stored time is at most so much longer than what is left, in seconds.
const STORED_EVERY: u64 = 3600;

/// What was left when the daemon stopped, to the hour.
pub async fn stored(store: &Arc<dyn Store>) -> Result<Duration> {
    let rows: Table<ClockGraceRow> = Table::new(store.clone(), &CLOCK_GRACE);
    Ok(rows.get(ID).await?.map_or(Duration::ZERO, |row| Duration::from_secs(row.value.seconds_left)))
}

pub async fn watch(users: Arc<Users>) {
    users.platform.ages.look();
    let (left, stored) = (users.platform.ages.grace_left().as_secs(), users.stored_grace.load(Ordering::Relaxed));
    if left.abs_diff(stored) < STORED_EVERY && (left > 0) == (stored > 0) {
        return;
    }
    let written = async {
        let rows: Table<ClockGraceRow> = Table::new(users.platform.store.clone(), &CLOCK_GRACE);
        Ok::<_, openorch_chassis::Error>(
            users.platform.store.commit(rows.upsert(ID, &ClockGraceRow { seconds_left: left })?.into()).await?,
        )
    };
    match written.await {
        Ok(_) => users.stored_grace.store(left, Ordering::Relaxed),
        // It is tried again in a second; the store's own trouble is logged where it is met.
        Err(error) => tracing::debug!("that the clock jumped could not be stored yet: {error:?}"),
    }
}
