//! Load balancing: chooses the instance for a request, currently at random.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::{pool::Upstream, routing_table::ServiceRoutes};

/// A random healthy instance, or a slow one if none is healthy. Avoids those in `tried` if there is another.
pub fn pick<'a>(service: &'a ServiceRoutes, tried: &[Arc<Upstream>]) -> Option<&'a Arc<Upstream>> {
    let candidates = match service.healthy.is_empty() {
        false => &service.healthy,
        true => &service.slow,
    };
    if candidates.len() <= 1 {
        return candidates.first();
    }
    let start = random() as usize % candidates.len();
    let (before, after) = candidates.split_at(start);
    let untried = |instance: &&Arc<Upstream>| !tried.iter().any(|t| Arc::ptr_eq(t, instance));
    let mut order = after.iter().chain(before);
    order.find(untried).or(candidates.get(start))
}

fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
    }
    // Xorshift is uniform enough for load balancing.
    let mut state = STATE.get();
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    STATE.set(state);
    state >> 16
}
