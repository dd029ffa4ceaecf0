//! A fair semaphore: limits concurrency and serves the waiters of different keys round-robin, each key with its own queue, so
//! that a key with many waiters does not delay the others.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// A semaphore that is fair among keys, such as accounts or addresses.
pub struct FairSemaphore<K: Hash + Eq + Clone>(Arc<Inner<K>>);

struct Inner<K: Hash + Eq + Clone> {
    state: Mutex<State<K>>,
}

struct State<K> {
    free: usize,
    /// The queue of each key, in order of arrival. A queue that all waiters left stays, empty, until its next turn.
    queues: HashMap<K, BTreeMap<u64, oneshot::Sender<()>>>,
    /// The keys of the queues in round-robin order, the next one first.
    order: VecDeque<K>,
    /// The number of waiters so far.
    arrivals: u64,
}

/// A permit, released on drop.
pub struct FairPermit<K: Hash + Eq + Clone>(Arc<Inner<K>>);

impl<K: Hash + Eq + Clone> Clone for FairSemaphore<K> {
    fn clone(&self) -> Self {
        FairSemaphore(self.0.clone())
    }
}

impl<K: Hash + Eq + Clone> FairSemaphore<K> {
    /// A semaphore with this number of permits, at least one.
    pub fn new(permits: usize) -> FairSemaphore<K> {
        let state = State { free: permits.max(1), queues: HashMap::new(), order: VecDeque::new(), arrivals: 0 };
        FairSemaphore(Arc::new(Inner { state: Mutex::new(state) }))
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    pub async fn acquire(&self, key: K) -> FairPermit<K> {
        let waiter = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return FairPermit(self.0.clone());
            }
            let (sender, receiver) = oneshot::channel();
            if !state.queues.contains_key(&key) {
                state.order.push_back(key.clone());
            }
            state.arrivals += 1;
            let number = state.arrivals;
            state.queues.entry(key.clone()).or_default().insert(number, sender);
            Waiter { semaphore: &self.0, receiver, key, number }
        };
        waiter.wait().await
    }
}

/// A queued waiter. A permit that arrives while it is dropped goes to the next waiter.
struct Waiter<'a, K: Hash + Eq + Clone> {
    semaphore: &'a Arc<Inner<K>>,
    receiver: oneshot::Receiver<()>,
    key: K,
    number: u64,
}

impl<K: Hash + Eq + Clone> Waiter<'_, K> {
    async fn wait(mut self) -> FairPermit<K> {
        // The sender stays in the queue until it sends the permit.
        let _ = (&mut self.receiver).await;
        FairPermit(self.semaphore.clone())
    }
}

impl<K: Hash + Eq + Clone> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(()) => self.semaphore.release(),
            Err(_) => {
                if let Some(line) = self.semaphore.lock().queues.get_mut(&self.key) {
                    line.remove(&self.number);
                }
            }
        }
    }
}

impl<K: Hash + Eq + Clone> Drop for FairPermit<K> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl<K: Hash + Eq + Clone> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a released permit to the first waiter of the next queue.
    fn release(&self) {
        let mut state = self.lock();
        while let Some(key) = state.order.pop_front() {
            let Some(queue) = state.queues.get_mut(&key) else { continue };
            let next = queue.pop_first();
            match queue.is_empty() {
                true => _ = state.queues.remove(&key),
                false => state.order.push_back(key),
            }
            if next.is_some_and(|(_, next)| next.send(()).is_ok()) {
                return;
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_take_turns_and_those_who_leave_keep_none() {
        let turns: FairSemaphore<u8> = FairSemaphore::new(1);
        let first = turns.acquire(0).await;
        let served = Arc::new(Mutex::new(Vec::new()));
        let wait = |key: u8| {
            let (turns, served) = (turns.clone(), served.clone());
            tokio::spawn(async move {
                let _turn = turns.acquire(key).await;
                served.lock().unwrap().push(key);
            })
        };
        let mut tasks = Vec::new();
        for key in [1, 1, 1, 1, 2, 3, 3] {
            tasks.push(wait(key));
            tokio::task::yield_now().await;
        }
        tasks.remove(1).abort();
        tokio::task::yield_now().await;
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        // The aborted waiter of key 1 does not cost that key a turn.
        assert_eq!(*served.lock().unwrap(), [1, 2, 3, 1, 3, 1]);
        let state = turns.0.lock();
        assert_eq!((state.free, state.queues.len(), state.order.len()), (1, 0, 0));
    }

    #[tokio::test]
    async fn a_turn_that_came_to_one_who_leaves_goes_to_the_next() {
        let turns: FairSemaphore<u8> = FairSemaphore::new(1);
        let first = turns.acquire(0).await;
        let mut leaves = Box::pin(turns.acquire(1));
        assert!(futures_poll_once(&mut leaves).await.is_none());
        drop(first);
        drop(leaves);
        assert_eq!(turns.0.lock().free, 1);
    }

    async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
