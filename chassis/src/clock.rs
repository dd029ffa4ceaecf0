//! The clock. All time comes from here, so that tests can control it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

/// The source of time, which tests can replace.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, which may be adjusted and may be wrong.
    fn now(&self) -> Timestamp;

    /// A monotonic clock since an arbitrary origin.
    fn uptime(&self) -> Duration;

    /// Whether a [`ServerClock`] replaces this one. False for the clocks of tests.
    fn yields_to_server(&self) -> bool {
        true
    }
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the system clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Includes time in which the machine was suspended.
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

/// The clock of a database server: its time when it was last read plus this machine's uptime since then. All daemons on a
/// database share its time, so a machine with a wrong wall clock does no harm (decision "Clock jumps").
pub struct ServerClock {
    machine: Arc<dyn Clock>,
    /// The server's time when the machine's uptime was zero, in microseconds since 1970.
    origin: AtomicI64,
}

impl ServerClock {
    /// Smaller differences come from round trips and are ignored, so that the time does not jitter.
    const TOLERANCE: SignedDuration = SignedDuration::from_millis(100);

    /// `server` is the server's current time.
    pub fn new(machine: Arc<dyn Clock>, server: Timestamp) -> ServerClock {
        let origin = ServerClock::origin(&*machine, server).into();
        ServerClock { machine, origin }
    }

    /// Sets the server's current time. Returns how far this clock was behind it.
    pub fn set(&self, server: Timestamp) -> SignedDuration {
        let offset = server.duration_since(self.now());
        if offset.abs() > ServerClock::TOLERANCE {
            self.origin.store(ServerClock::origin(&*self.machine, server), Ordering::SeqCst);
        }
        offset
    }

    fn origin(machine: &dyn Clock, server: Timestamp) -> i64 {
        server.as_microsecond().saturating_sub(microseconds(machine.uptime()))
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Timestamp {
        let microseconds = self.origin.load(Ordering::SeqCst).saturating_add(microseconds(self.uptime()));
        Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::MAX)
    }

    fn uptime(&self) -> Duration {
        self.machine.uptime()
    }
}

fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// A clock that only moves when told to: for tests, and for daemons in tests.
pub struct ManualClock {
    /// In microseconds.
    wall: AtomicI64,
    /// In milliseconds.
    uptime: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `start` until it is advanced.
    pub fn new(start: Timestamp) -> Arc<ManualClock> {
        Arc::new(ManualClock { wall: start.as_microsecond().into(), uptime: AtomicU64::new(1) })
    }

    /// Advances the time. A negative number sets the wall clock back, without a change of the uptime.
    pub fn advance(&self, seconds: i64) {
        self.advance_ms(seconds * 1000);
    }

    /// Like [`ManualClock::advance`], in milliseconds.
    pub fn advance_ms(&self, milliseconds: i64) {
        self.uptime.fetch_add(u64::try_from(milliseconds).unwrap_or_default(), Ordering::SeqCst);
        self.wall.fetch_add(milliseconds * 1000, Ordering::SeqCst);
    }

    /// Adjusts the wall clock, without a change of the uptime.
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

    fn yields_to_server(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_time_moves_on_with_the_uptime_and_not_with_the_machines_wall_clock() {
        let server: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let machine = ManualClock::new("2028-11-24T12:00:00Z".parse().unwrap());
        let clock = ServerClock::new(machine.clone(), server);
        assert_eq!(clock.now(), server);
        machine.advance(60);
        machine.jump(-5 * 365 * 24 * 3600);
        assert_eq!(clock.now(), server + SignedDuration::from_secs(60));

        let a_bit_behind = server + SignedDuration::from_millis(59_950);
        assert_eq!(clock.set(a_bit_behind), SignedDuration::from_millis(-50));
        assert_eq!(clock.now(), server + SignedDuration::from_secs(60), "the jitter of round trips is ignored");
        let ahead = server + SignedDuration::from_hours(1);
        assert_eq!(clock.set(ahead), SignedDuration::from_secs(3540));
        assert_eq!(clock.now(), ahead);
    }
}
