//! Events of one kind and those who follow them.

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use openorch_api::events::{Event, encode};

use super::queue::Queue;

/// Events of one kind, for those who follow them. Nothing is kept of an event that nobody follows.
pub struct Topic<E> {
    max_queue_bytes: usize,
    followers: RwLock<Vec<Follower<E>>>,
    /// How many there are, so that nobody waits for the lock to learn that there are none.
    count: AtomicUsize,
}

struct Follower<E> {
    wants: Box<dyn Fn(&E) -> bool + Send + Sync>,
    queue: Arc<Queue>,
}

/// One who follows a topic, until it is dropped.
pub struct Subscription<E: Event> {
    topic: Arc<Topic<E>>,
    queue: Arc<Queue>,
}

impl<E: Event> Topic<E> {
    /// `max_queue_bytes`: most bytes of events that wait for one follower.
    pub fn new(max_queue_bytes: usize) -> Arc<Topic<E>> {
        Arc::new(Topic { max_queue_bytes, followers: RwLock::default(), count: AtomicUsize::new(0) })
    }

    /// Whether anybody follows it. One load from memory: what makes events asks this first, however often it is asked.
    pub fn is_followed(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Hands an event to those who follow and want it. It never waits for them.
    pub fn publish(&self, event: &E) {
        let mut encoded: Option<Bytes> = None;
        for follower in self.read().iter().filter(|follower| (follower.wants)(event)) {
            let bytes = match &encoded {
                Some(bytes) => bytes.clone(),
                // What cannot be encoded is an event for nobody.
                None => match encode(event) {
                    Ok(bytes) => encoded.insert(bytes).clone(),
                    Err(error) => return tracing::error!(%error, "an event `{}` cannot be encoded", E::NAME),
                },
            };
            follower.queue.push(bytes);
        }
    }

    /// Follows it from now on; `wants` says which events.
    pub fn subscribe(self: &Arc<Topic<E>>, wants: impl Fn(&E) -> bool + Send + Sync + 'static) -> Subscription<E> {
        let queue = Arc::new(Queue::new(self.max_queue_bytes));
        let mut followers = self.write();
        followers.push(Follower { wants: Box::new(wants), queue: queue.clone() });
        self.count.store(followers.len(), Relaxed);
        Subscription { topic: self.clone(), queue }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Follower<E>>> {
        self.followers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Follower<E>>> {
        self.followers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Event> Subscription<E> {
    pub(super) fn max_bytes(&self) -> usize {
        self.queue.max_bytes()
    }

    pub(super) fn poll_take(&self, context: &Context<'_>) -> Poll<Bytes> {
        self.queue.poll_take(context)
    }

    pub(super) fn take_all(&self) -> BytesMut {
        self.queue.take_all()
    }
}

impl<E: Event> Drop for Subscription<E> {
    fn drop(&mut self) {
        let mut followers = self.topic.write();
        followers.retain(|follower| !Arc::ptr_eq(&follower.queue, &self.queue));
        self.topic.count.store(followers.len(), Relaxed);
    }
}
