//! Rate limits of log lines that clients can provoke.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Allows a number of lines per period and counts the suppressed ones.
pub struct LogLimit {
    lines: u32,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    period_began: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl LogLimit {
    /// One line a minute.
    pub const fn once_a_minute() -> LogLimit {
        LogLimit::new(1, Duration::from_secs(60))
    }

    /// At most this number of lines in each period.
    pub const fn new(lines: u32, period: Duration) -> LogLimit {
        let state = State { period_began: None, written: 0, suppressed: 0 };
        LogLimit { lines, period, state: Mutex::new(state) }
    }

    /// `Some` if the line may be written, with the number of lines suppressed since the last one.
    pub fn allow(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.period_began.is_none_or(|began| began.elapsed() >= self.period) {
            state.period_began = Some(Instant::now());
            state.written = 0;
        }
        if state.written == self.lines {
            state.suppressed += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted() {
        let limit = LogLimit::new(2, Duration::from_secs(3600));
        assert_eq!([limit.allow(), limit.allow(), limit.allow(), limit.allow()], [Some(0), Some(0), None, None]);
        let limit = LogLimit::new(1, Duration::ZERO);
        assert_eq!([limit.allow(), limit.allow()], [Some(0), Some(0)]);
    }
}
