//! Whether what is kept for days or longer may end for its age (decision "Clock jumps"). A clock that is wrong for two
//! minutes, years ahead, must not end every idle session and empty the audit log; so nothing ends for its age in the first
//! hour after a start, nor while the daemon has run for less than seven days since the clock jumped. What has its own time
//! (`exp`, codes, invitations, throttles, leases, silence) ends at that time and does not ask here.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{clock::Clock, settings};

/// The wall clock jumped where it and the time that the machine runs part by more than this.
const JUMP: SignedDuration = SignedDuration::from_hours(24);
/// The same where a start finds that the newest stored time is further away.
const LONG_STOP: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What is kept for less ends at its time: a session that an operator lets end after minutes is to end after those.
const DAYS: Duration = Duration::from_secs(24 * 3600);

settings! {
    /// How long nothing ends for its age: `[expiry]`.
    pub struct ExpirySettings in "expiry" {
        /// Time after a start in which no session, audit entry or the like ends for its age.
        grace_after_start: Duration = "1h";
        /// The same after the clock jumped by more than a day, in time that the daemon runs.
        grace_after_clock_jump: Duration = "168h";
    }
}

/// Watches the clock. All times within are of [`Clock::uptime`].
pub struct Ages {
    clock: Arc<dyn Clock>,
    settings: ExpirySettings,
    started_at: Duration,
    seen: Mutex<Seen>,
}

/// The clock when it was looked at last.
struct Seen {
    wall: Timestamp,
    uptime: Duration,
    /// Nothing ends for its age before this, since the clock jumped.
    grace_until: Duration,
}

impl Ages {
    /// Begins with a start of the daemon. `newest` is the newest time in its database, if there is any; `grace_left` is
    /// [`Ages::grace_left`] when it stopped.
    pub fn new(
        clock: Arc<dyn Clock>,
        newest: Option<Timestamp>,
        grace_left: Duration,
        settings: ExpirySettings,
    ) -> Ages {
        let (wall, uptime) = (clock.now(), clock.uptime());
        let away = newest.map(|newest| wall.duration_since(newest)).filter(|away| away.abs() > LONG_STOP);
        if let (Some(newest), Some(_)) = (newest, away) {
            tracing::warn!(
                "it is {wall}, and the newest time in the database is {newest}: either the daemon was stopped for long or a \
                 clock was wrong. Sessions, audit entries and the like do not end for their age in the next {}",
                days(settings.grace_after_clock_jump)
            );
        }
        let grace_left = if away.is_some() {
            settings.grace_after_clock_jump
        } else {
            grace_left.min(settings.grace_after_clock_jump)
        };
        let seen = Seen { wall, uptime, grace_until: uptime + grace_left };
        Ages { clock, settings, started_at: uptime, seen: Mutex::new(seen) }
    }

    /// Whether what is kept for this long, and is old enough, may end now. To be asked only of what is, since it takes a
    /// lock.
    pub fn may_end(&self, kept_for: Duration) -> bool {
        let has_grace = kept_for >= DAYS;
        self.look() || !has_grace
    }

    /// Looks at the clock, so that a jump is seen also while nothing asks: to be called every few seconds. Answers whether
    /// ages count.
    pub fn look(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, uptime) = (self.clock.now(), self.clock.uptime());
        let ran = SignedDuration::try_from(uptime.saturating_sub(seen.uptime)).unwrap_or(SignedDuration::MAX);
        let jump = wall.duration_since(seen.wall).saturating_sub(ran);
        if jump.abs() > JUMP {
            tracing::warn!(
                "the clock jumped from {} to {wall}: sessions, audit entries and the like do not end for their age in the \
                 next {} of running",
                seen.wall,
                days(self.settings.grace_after_clock_jump)
            );
            seen.grace_until = uptime + self.settings.grace_after_clock_jump;
        }
        (seen.wall, seen.uptime) = (wall, uptime);
        uptime >= self.started_at + self.settings.grace_after_start && uptime >= seen.grace_until
    }

    /// How long nothing ends for its age, since the clock jumped. To be stored: a restart while the clock is still wrong
    /// finds times in the database that look right.
    pub fn grace_left(&self) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.grace_until.saturating_sub(self.clock.uptime())
    }
}

fn days(time: Duration) -> String {
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
        let ages = Ages::new(clock.clone(), Some(start()), Duration::ZERO, ExpirySettings::default());
        clock.advance(HOUR - 1);
        assert!(!ages.may_end(DAYS));
        assert!(ages.may_end(DAYS - Duration::from_secs(1)), "but what is not kept for days does");
        clock.advance(1);
        assert!(ages.may_end(DAYS));
    }

    #[test]
    fn nothing_ends_for_its_age_in_the_seven_days_of_running_after_the_clock_jumped() {
        for jump in [2 * 365 * DAY, -2 * 365 * DAY, DAY + 1] {
            let clock = ManualClock::new(start());
            let ages = Ages::new(clock.clone(), None, Duration::ZERO, ExpirySettings::default());
            clock.advance(400 * DAY);
            assert!(ages.may_end(DAYS), "time that passes is no jump");
            clock.jump(jump);
            assert!(!ages.may_end(DAYS), "{jump}: the very first question sees it");
            clock.advance(7 * DAY - 1);
            assert!(!ages.may_end(DAYS));
            // Back in order: that is a jump as well.
            clock.jump(-jump);
            ages.look();
            clock.advance(7 * DAY - 1);
            assert!(!ages.may_end(DAYS));
            clock.advance(1);
            assert!(ages.may_end(DAYS));
            clock.jump(DAY - 1);
            assert!(ages.may_end(DAYS), "less than a day is none");
        }
    }

    #[test]
    fn a_restart_does_not_end_the_grace() {
        let clock = ManualClock::new(start());
        let left = Duration::from_secs(2 * 24 * 3600);
        let ages = Ages::new(clock.clone(), Some(start()), left, ExpirySettings::default());
        clock.advance(2 * DAY - 1);
        assert_eq!((ages.may_end(DAYS), ages.grace_left()), (false, Duration::from_secs(1)));
        clock.advance(1);
        assert_eq!((ages.may_end(DAYS), ages.grace_left()), (true, Duration::ZERO));
    }

    #[test]
    fn a_start_long_after_the_newest_stored_time_counts_as_a_jump() {
        for (away, may_end) in [(-31, false), (31, false), (30, true), (-30, true), (0, true)] {
            let clock = ManualClock::new(start());
            let newest = start() + SignedDuration::from_hours(24 * away);
            let ages = Ages::new(clock.clone(), Some(newest), Duration::ZERO, ExpirySettings::default());
            clock.advance(DAY);
            assert_eq!(ages.may_end(DAYS), may_end, "{away} days");
            clock.advance(6 * DAY);
            assert!(ages.may_end(DAYS));
        }
    }
}
