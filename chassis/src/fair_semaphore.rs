//! A fair semaphore: limits concurrency and serves the waiters of different keys round-robin, each key with its own queue, so
//! that a key with many waiters does not delay the others.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// A semaphore that is fair among keys, such as accounts or addresses.
pub struct Turns<K: Hash + Eq + Clone>(Arc<Inner<K>>);

struct Inner<K: Hash + Eq + Clone> {
    state: Mutex<State<K>>,
}

struct State<K> {
    free: usize,
    /// The queue of each key, in order of arrival. A queue that all waiters left stays, empty, until its next turn.
    lines: HashMap<K, BTreeMap<u64, oneshot::Sender<()>>>,
    /// The keys of the queues in round-robin order, the next one first.
    order: VecDeque<K>,
    /// The number of waiters so far.
    came: u64,
}

/// A permit, released on drop.
pub struct Turn<K: Hash + Eq + Clone>(Arc<Inner<K>>);

impl<K: Hash + Eq + Clone> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Turns(self.0.clone())
    }
}

impl<K: Hash + Eq + Clone> Turns<K> {
    /// A semaphore with this number of permits, at least one.
    pub fn new(at_once: usize) -> Turns<K> {
        let state = State { free: at_once.max(1), lines: HashMap::new(), order: VecDeque::new(), came: 0 };
        Turns(Arc::new(Inner { state: Mutex::new(state) }))
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    pub async fn take(&self, key: K) -> Turn<K> {
        let turn = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return Turn(self.0.clone());
            }
            let (hand, turn) = oneshot::channel();
            if !state.lines.contains_key(&key) {
                state.order.push_back(key.clone());
            }
            state.came += 1;
            let number = state.came;
            state.lines.entry(key.clone()).or_default().insert(number, hand);
            Waiting { turns: &self.0, turn, key, number }
        };
        turn.wait().await
    }
}

/// A queued waiter. A permit that arrives while it is dropped goes to the next waiter.
struct Waiting<'a, K: Hash + Eq + Clone> {
    turns: &'a Arc<Inner<K>>,
    turn: oneshot::Receiver<()>,
    key: K,
    number: u64,
}

impl<K: Hash + Eq + Clone> Waiting<'_, K> {
    async fn wait(mut self) -> Turn<K> {
        // The sender stays in the queue until it sends the permit.
        let _ = (&mut self.turn).await;
        Turn(self.turns.clone())
    }
}

impl<K: Hash + Eq + Clone> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        self.turn.close();
        match self.turn.try_recv() {
            Ok(()) => self.turns.hand_on(),
            Err(_) => {
                if let Some(line) = self.turns.lock().lines.get_mut(&self.key) {
                    line.remove(&self.number);
                }
            }
        }
    }
}

impl<K: Hash + Eq + Clone> Drop for Turn<K> {
    fn drop(&mut self) {
        self.0.hand_on();
    }
}

impl<K: Hash + Eq + Clone> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a released permit to the first waiter of the next queue.
    fn hand_on(&self) {
        let mut state = self.lock();
        while let Some(key) = state.order.pop_front() {
            let Some(line) = state.lines.get_mut(&key) else { continue };
            let next = line.pop_first();
            match line.is_empty() {
                true => _ = state.lines.remove(&key),
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
        let turns: Turns<u8> = Turns::new(1);
        let first = turns.take(0).await;
        let served = Arc::new(Mutex::new(Vec::new()));
        let wait = |key: u8| {
            let (turns, served) = (turns.clone(), served.clone());
            tokio::spawn(async move {
                let _turn = turns.take(key).await;
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
        assert_eq!((state.free, state.lines.len(), state.order.len()), (1, 0, 0));
    }

    #[tokio::test]
    async fn a_turn_that_came_to_one_who_leaves_goes_to_the_next() {
        let turns: Turns<u8> = Turns::new(1);
        let first = turns.take(0).await;
        let mut leaves = Box::pin(turns.take(1));
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
