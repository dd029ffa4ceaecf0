//! A topic and its subscribers.

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

/// Publishes events of one kind to subscribers. Events without a subscriber are discarded.
pub struct Topic<E> {
    max_queue_bytes: usize,
    subscribers: RwLock<Vec<Subscriber<E>>>,
    /// The number of subscribers, readable without the lock.
    count: AtomicUsize,
}

struct Subscriber<E> {
    accepts: Box<dyn Fn(&E) -> bool + Send + Sync>,
    queue: Arc<Queue>,
}

/// A subscription to a topic; dropping it unsubscribes.
pub struct Subscription<E: Event> {
    topic: Arc<Topic<E>>,
    queue: Arc<Queue>,
}

impl<E: Event> Topic<E> {
    /// `max_queue_bytes`: maximum bytes of the queue of a subscriber.
    pub fn new(max_queue_bytes: usize) -> Arc<Topic<E>> {
        Arc::new(Topic { max_queue_bytes, subscribers: RwLock::default(), count: AtomicUsize::new(0) })
    }

    /// Whether there are subscribers. A single atomic load, for publishers to check before they create an event.
    pub fn has_subscribers(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Queues an event for the subscribers whose filters accept it. Never blocks on them.
    pub fn publish(&self, event: &E) {
        let mut encoded: Option<Bytes> = None;
        for follower in self.read().iter().filter(|follower| (follower.accepts)(event)) {
            let bytes = match &encoded {
                Some(bytes) => bytes.clone(),
                // An event that cannot be encoded is logged and discarded.
                None => match encode(event) {
                    Ok(bytes) => encoded.insert(bytes).clone(),
                    Err(error) => return tracing::error!(%error, "an event `{}` cannot be encoded", E::NAME),
                },
            };
            follower.queue.push(bytes);
        }
    }

    /// Subscribes to future events that the filter accepts.
    pub fn subscribe(self: &Arc<Topic<E>>, wants: impl Fn(&E) -> bool + Send + Sync + 'static) -> Subscription<E> {
        let queue = Arc::new(Queue::new(self.max_queue_bytes));
        let mut followers = self.write();
        followers.push(Subscriber { accepts: Box::new(wants), queue: queue.clone() });
        self.count.store(followers.len(), Relaxed);
        Subscription { topic: self.clone(), queue }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Subscriber<E>>> {
        self.subscribers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Subscriber<E>>> {
        self.subscribers.write().unwrap_or_else(PoisonError::into_inner)
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
