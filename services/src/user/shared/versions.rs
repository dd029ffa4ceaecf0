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
pub struct VersionStamp {
    version: Arc<AtomicU64>,
    seen: AtomicU64,
}

const SWEEP_FROM: usize = 1024;

impl Versions {
    /// The version of this account or role, to be taken when a value is loaded.
    pub fn stamp(&mut self, id: &str) -> VersionStamp {
        let version = self.by_id.get(id).and_then(Weak::upgrade).unwrap_or_else(|| {
            if self.by_id.len() >= self.sweep_at {
                self.by_id.retain(|_, version| version.strong_count() > 0);
                self.sweep_at = SWEEP_FROM.max(2 * self.by_id.len());
            }
            let version = Arc::default();
            self.by_id.insert(id.into(), Arc::downgrade(&version));
            version
        });
        VersionStamp { seen: version.load(Ordering::SeqCst).into(), version }
    }

    /// Invalidates all values loaded from this account or role.
    pub fn bump(&self, id: &str) {
        if let Some(version) = self.by_id.get(id).and_then(Weak::upgrade) {
            version.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl VersionStamp {
    pub fn is_current(&self) -> bool {
        self.version.load(Ordering::SeqCst) == self.seen.load(Ordering::SeqCst)
    }

    /// Makes the value current again, when a change does not concern it.
    pub fn renew(&self) {
        self.seen.store(self.version.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_invalidates_only_values_loaded_before_it() {
        let mut versions = Versions::default();
        let (before, other) = (versions.stamp("a"), versions.stamp("b"));
        versions.bump("a");
        versions.bump("unknown");
        let after = versions.stamp("a");
        assert_eq!([&before, &other, &after].map(VersionStamp::is_current), [false, true, true]);
        before.renew();
        versions.bump("b");
        assert_eq!([&before, &other, &after].map(VersionStamp::is_current), [true, false, true]);
    }

    #[test]
    fn versions_without_holders_are_removed() {
        let mut versions = Versions::default();
        let kept = versions.stamp("kept");
        (0..10 * SWEEP_FROM).for_each(|n| drop(versions.stamp(&n.to_string())));
        assert!(versions.by_id.len() <= SWEEP_FROM);
        versions.bump("kept");
        assert!(!kept.is_current());
    }
}
