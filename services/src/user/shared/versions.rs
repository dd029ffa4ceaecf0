//! Version numbers that invalidate cached values. A value holds the versions of everything it was loaded from, and a
//! change increments one of them: the cost does not depend on the number of values that become stale.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// The versions of all accounts or roles from which cached values were loaded, by id.
#[derive(Default)]
pub struct Versions {
    by_id: HashMap<Box<str>, Weak<AtomicU64>>,
    /// At this size, versions that no value holds anymore are removed.
    sweep_at: usize,
}

/// The version of an account or role at the time a value was loaded.
pub struct Seen {
    version: Arc<AtomicU64>,
    at: AtomicU64,
}

const SWEEP_FROM: usize = 1024;

impl Versions {
    /// The version of this account or role, to be taken when a value is loaded.
    pub fn see(&mut self, id: &str) -> Seen {
        let version = self.by_id.get(id).and_then(Weak::upgrade).unwrap_or_else(|| {
            if self.by_id.len() >= self.sweep_at {
                self.by_id.retain(|_, version| version.strong_count() > 0);
                self.sweep_at = SWEEP_FROM.max(2 * self.by_id.len());
            }
            let version = Arc::default();
            self.by_id.insert(id.into(), Arc::downgrade(&version));
            version
        });
        Seen { at: version.load(Ordering::SeqCst).into(), version }
    }

    /// Invalidates all values loaded from this account or role.
    pub fn rise(&self, id: &str) {
        if let Some(version) = self.by_id.get(id).and_then(Weak::upgrade) {
            version.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Seen {
    pub fn is_current(&self) -> bool {
        self.version.load(Ordering::SeqCst) == self.at.load(Ordering::SeqCst)
    }

    /// Makes the value current again, when a change does not concern it.
    pub fn renew(&self) {
        self.at.store(self.version.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_makes_stale_what_was_made_from_it_before_and_nothing_else() {
        let mut versions = Versions::default();
        let (before, other) = (versions.see("a"), versions.see("b"));
        versions.rise("a");
        versions.rise("unknown");
        let after = versions.see("a");
        assert_eq!([&before, &other, &after].map(Seen::is_current), [false, true, true]);
        before.renew();
        versions.rise("b");
        assert_eq!([&before, &other, &after].map(Seen::is_current), [true, false, true]);
    }

    #[test]
    fn numbers_that_nothing_remembers_are_removed() {
        let mut versions = Versions::default();
        let kept = versions.see("kept");
        (0..10 * SWEEP_FROM).for_each(|n| drop(versions.see(&n.to_string())));
        assert!(versions.by_id.len() <= SWEEP_FROM);
        versions.rise("kept");
        assert!(!kept.is_current());
    }
}
