//! Grace periods for the expiry of data that is kept for days or longer (decision "Clock jumps"). A clock that is years
//! ahead for two minutes must not end every idle session and empty the audit log. So nothing expires by age in the
//! first hour after a start, or in the first seven days of uptime after the clock jumped. Data with an expiry time of
//! its own (`exp`, codes, invitations, throttles, leases, heartbeats) expires at that time regardless.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{clock::Clock, settings};

/// The wall clock jumped if it and the uptime diverge by more than this.
const MIN_CLOCK_JUMP: SignedDuration = SignedDuration::from_hours(24);
/// At a start: the clock may have jumped if the newest stored time is further away than this.
const MAX_STORED_GAP: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Data kept for less has no grace period: sessions that an operator configured to end after minutes must do so.
const MIN_AGE_WITH_GRACE: Duration = Duration::from_secs(24 * 3600);

settings! {
    /// Grace periods in which nothing expires by age: `[expiry]`.
    pub struct ExpirySettings in "expiry" {
        /// Time after a start during which no session, audit entry or similar expires by age.
        grace_after_start: Duration = "1h";
        /// The same after the clock jumped by more than a day, in uptime of the daemon.
        grace_after_clock_jump: Duration = "168h";
    }
}

/// Watches the clock for jumps. Its times are those of [`Clock::uptime`].
pub struct ExpiryGrace {
    clock: Arc<dyn Clock>,
    settings: ExpirySettings,
    started_at: Duration,
    last_reading: Mutex<ClockReading>,
}

/// The clock at its last reading.
struct ClockReading {
    wall: Timestamp,
    uptime: Duration,
    /// End of the grace period after a clock jump.
    grace_until: Duration,
}

impl ExpiryGrace {
    /// To be created when the daemon starts. `newest` is the newest time in its database, if any; `grace_left` is the value
    /// of [`ExpiryGrace::remaining`] at the last stop.
    pub fn new(
        clock: Arc<dyn Clock>,
        newest: Option<Timestamp>,
        grace_left: Duration,
        settings: ExpirySettings,
    ) -> ExpiryGrace {
        let (wall, uptime) = (clock.now(), clock.uptime());
        let gap = newest.map(|newest| wall.duration_since(newest)).filter(|away| away.abs() > MAX_STORED_GAP);
        if let (Some(newest), Some(_)) = (newest, gap) {
            tracing::warn!(
                "the clock says {wall}, the newest time in the database is {newest}: the daemon was stopped for long, or a \
                 clock was wrong. Sessions, audit entries and the like do not expire by age in the next {}",
                format_duration(settings.grace_after_clock_jump)
            );
        }
        let grace_left = if gap.is_some() {
            settings.grace_after_clock_jump
        } else {
            grace_left.min(settings.grace_after_clock_jump)
        };
        let seen = ClockReading { wall, uptime, grace_until: uptime + grace_left };
        ExpiryGrace { clock, settings, started_at: uptime, last_reading: Mutex::new(seen) }
    }

    /// Whether data that has reached its age `kept_for` may expire now. Takes a lock, so compare the age first.
    pub fn may_expire(&self, kept_for: Duration) -> bool {
        let has_grace = kept_for >= MIN_AGE_WITH_GRACE;
        self.check_clock() || !has_grace
    }

    /// Reads the clock to detect jumps; to be called every few seconds. Returns whether no grace period is active.
    pub fn check_clock(&self) -> bool {
        let mut seen = self.last_reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, uptime) = (self.clock.now(), self.clock.uptime());
        let ran = SignedDuration::try_from(uptime.saturating_sub(seen.uptime)).unwrap_or(SignedDuration::MAX);
        let jump = wall.duration_since(seen.wall).saturating_sub(ran);
        if jump.abs() > MIN_CLOCK_JUMP {
            tracing::warn!(
                "the clock jumped from {} to {wall}: sessions, audit entries and the like do not expire by age in the next \
                 {} of uptime",
                seen.wall,
                format_duration(self.settings.grace_after_clock_jump)
            );
            seen.grace_until = uptime + self.settings.grace_after_clock_jump;
        }
        (seen.wall, seen.uptime) = (wall, uptime);
        uptime >= self.started_at + self.settings.grace_after_start && uptime >= seen.grace_until
    }

    /// The rest of the grace period after a clock jump. To be stored: after a restart while the clock is still wrong, the
    /// times in the database look right.
    pub fn remaining(&self) -> Duration {
        let seen = self.last_reading.lock().unwrap_or_else(PoisonError::into_inner);
        seen.grace_until.saturating_sub(self.clock.uptime())
    }
}

fn format_duration(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    if hours >= 48 { format!("{} days", hours / 24) } else { format!("{hours} hours") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn start() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn nothing_ends_for_its_age_in_the_first_hour_after_a_start() {
        let clock = ManualClock::new(start());
        let ages = ExpiryGrace::new(clock.clone(), Some(start()), Duration::ZERO, ExpirySettings::default());
        clock.advance(HOUR - 1);
        assert!(!ages.may_expire(MIN_AGE_WITH_GRACE));
        assert!(ages.may_expire(MIN_AGE_WITH_GRACE - Duration::from_secs(1)), "shorter ages have no grace period");
        clock.advance(1);
        assert!(ages.may_expire(MIN_AGE_WITH_GRACE));
    }

    #[test]
    fn nothing_ends_for_its_age_in_the_seven_days_of_running_after_the_clock_jumped() {
        for jump in [2 * 365 * DAY, -2 * 365 * DAY, DAY + 1] {
            let clock = ManualClock::new(start());
            let ages = ExpiryGrace::new(clock.clone(), None, Duration::ZERO, ExpirySettings::default());
            clock.advance(400 * DAY);
            assert!(ages.may_expire(MIN_AGE_WITH_GRACE), "uptime is no jump");
            clock.jump(jump);
            assert!(!ages.may_expire(MIN_AGE_WITH_GRACE), "{jump}: the next reading detects it");
            clock.advance(7 * DAY - 1);
            assert!(!ages.may_expire(MIN_AGE_WITH_GRACE));
            // Correcting the clock is a jump as well.
            clock.jump(-jump);
            ages.check_clock();
            clock.advance(7 * DAY - 1);
            assert!(!ages.may_expire(MIN_AGE_WITH_GRACE));
            clock.advance(1);
            assert!(ages.may_expire(MIN_AGE_WITH_GRACE));
            clock.jump(DAY - 1);
            assert!(ages.may_expire(MIN_AGE_WITH_GRACE), "less than a day is no jump");
        }
    }

    #[test]
    fn a_restart_does_not_end_the_grace() {
        let clock = ManualClock::new(start());
        let left = Duration::from_secs(2 * 24 * 3600);
        let ages = ExpiryGrace::new(clock.clone(), Some(start()), left, ExpirySettings::default());
        clock.advance(2 * DAY - 1);
        assert_eq!((ages.may_expire(MIN_AGE_WITH_GRACE), ages.remaining()), (false, Duration::from_secs(1)));
        clock.advance(1);
        assert_eq!((ages.may_expire(MIN_AGE_WITH_GRACE), ages.remaining()), (true, Duration::ZERO));
    }

    #[test]
    fn a_start_long_after_the_newest_stored_time_counts_as_a_jump() {
        for (away, may_end) in [(-31, false), (31, false), (30, true), (-30, true), (0, true)] {
            let clock = ManualClock::new(start());
            let newest = start() + SignedDuration::from_hours(24 * away);
            let ages = ExpiryGrace::new(clock.clone(), Some(newest), Duration::ZERO, ExpirySettings::default());
            clock.advance(DAY);
            assert_eq!(ages.may_expire(MIN_AGE_WITH_GRACE), may_end, "{away} days");
            clock.advance(6 * DAY);
            assert!(ages.may_expire(MIN_AGE_WITH_GRACE));
        }
    }
}
