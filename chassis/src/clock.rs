//! The time, asked from one place so that tests can move it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

pub trait Clock: Send + Sync + 'static {
    /// The wall clock, which may be set and may be wrong.
    fn now(&self) -> Timestamp;

    /// How long the machine runs: this never goes back and is never set. What it began with does not matter.
    fn uptime(&self) -> Duration;
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Includes the time for which the machine slept.
    #[cfg(target_os = "linux")]
    fn uptime(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(time).unwrap_or_default()
    }

    #[cfg(not(target_os = "linux"))]
    fn uptime(&self) -> Duration {
        use std::{sync::LazyLock, time::Instant};
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// A clock that stands still until it is moved: for tests, and for daemons that are started inside a test.
pub struct ManualClock {
    /// In microseconds.
    wall: AtomicI64,
    /// In milliseconds.
    uptime: AtomicU64,
}

impl ManualClock {
    pub fn new(start: Timestamp) -> Arc<ManualClock> {
        Arc::new(ManualClock { wall: start.as_microsecond().into(), uptime: AtomicU64::new(1) })
    }

    /// So many seconds pass. Negative ones set the wall clock back, while no time passes.
    pub fn advance(&self, seconds: i64) {
        self.advance_ms(seconds * 1000);
    }

    /// So many milliseconds pass.
    pub fn advance_ms(&self, milliseconds: i64) {
        self.uptime.fetch_add(u64::try_from(milliseconds).unwrap_or_default(), Ordering::SeqCst);
        self.wall.fetch_add(milliseconds * 1000, Ordering::SeqCst);
    }

    /// Sets the wall clock by so many seconds, while no time passes.
    pub fn jump(&self, seconds: i64) {
        self.wall.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.wall.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX)
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.uptime.load(Ordering::SeqCst))
    }
}
