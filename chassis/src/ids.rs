//! Ids: `<prefix>_<base62>`. Plain ids are time-ordered, with Sonyflake's layout: 39 bits of time in units of 10 ms since
//! 2014-09-01 UTC, 8 bits of sequence, 16 bits that identify the node and its start. Random ids are for what must not be
//! guessable (decision "Ids").

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::clock::Clock;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const EPOCH_SECOND: i64 = 1_409_529_600;
const RANDOM_LENGTH: usize = 24;

/// Generates ids.
pub struct Ids {
    clock: Arc<dyn Clock>,
    /// Random at each start, so that ids do not repeat after the clock was set back.
    start: u16,
    /// Time and sequence of the last id, so that ids increase even when the clock goes back.
    last: AtomicU64,
}

impl Ids {
    /// A generator of ids with the time of this clock. Panics if the operating system gives no random bytes.
    pub fn new(clock: Arc<dyn Clock>) -> Ids {
        let mut drawn = [0; 2];
        getrandom::fill(&mut drawn).expect("the operating system gives random bytes");
        Ids { clock, start: u16::from_ne_bytes(drawn), last: AtomicU64::new(0) }
    }

    /// A new time-ordered id.
    pub fn next(&self, prefix: &str) -> String {
        let elapsed_ms = (self.clock.now().as_millisecond() - EPOCH_SECOND * 1000).max(0) as u64;
        let now = (elapsed_ms / 10) << 8;
        let previous = self
            .last
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)))
            .unwrap_or_default();
        let number = (now.max(previous + 1) << 16) | u64::from(self.start);
        format!("{prefix}_{}", base62(number))
    }

    /// A new id with about 142 random bits, which cannot be guessed.
    pub fn random(&self, prefix: &str) -> String {
        format!("{prefix}_{}", random_text(RANDOM_LENGTH))
    }
}

/// Random letters and digits, with nearly six bits of entropy each.
pub fn random_text(length: usize) -> String {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        // 248 is the largest multiple of 62 in a byte: larger bytes would bias the first letters.
        let usable = bytes.iter().filter(|byte| **byte < 248).take(length - text.len());
        text.extend(usable.map(|byte| ALPHABET[usize::from(byte % 62)] as char));
    }
    text
}

/// A uniformly distributed random number below `bound`.
pub fn random_number(bound: u32) -> u32 {
    let usable = u32::MAX - u32::MAX % bound.max(1);
    loop {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        let number = u32::from_ne_bytes(bytes);
        if number < usable {
            return number % bound.max(1);
        }
    }
}

fn base62(mut number: u64) -> String {
    let mut digits = Vec::with_capacity(11);
    loop {
        digits.push(ALPHABET[(number % 62) as usize]);
        number /= 62;
        if number == 0 {
            break;
        }
    }
    digits.reverse();
    digits.iter().map(|digit| *digit as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn ids_rise_also_within_one_moment_and_when_the_clock_goes_back() {
        let clock = ManualClock::new("2026-11-24T12:00:00Z".parse().unwrap());
        let ids = Ids::new(clock.clone());
        let mut last = String::new();
        for step in 0..2000 {
            if step == 1000 {
                clock.advance(-60);
            }
            let id = ids.next("inst");
            assert!(id.starts_with("inst_") && id > last, "{id} after {last}");
            last = id;
        }
    }

    #[test]
    fn random_ids_differ() {
        assert_ne!(random_text(24), random_text(24));
        assert_eq!(random_text(24).len(), 24);
    }
}
