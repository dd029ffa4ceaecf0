//! A fair semaphore: limits concurrency and serves the waiters of different keys round-robin, each key with its own queue, so
//! that a key with many waiters does not delay the others. Keys may be nested: first networks take turns, then the accounts
//! within each of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
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
    queues: Queue<K>,
    /// The number of waiters so far.
    arrivals: u64,
}

/// The waiters of a key, and those of the keys within it.
struct Queue<K> {
    /// The waiters of the key itself, in order of arrival.
    own: BTreeMap<u64, oneshot::Sender<()>>,
    /// The keys within it. A key that all waiters left stays until its next turn.
    within: HashMap<K, Queue<K>>,
    /// The keys within it in round-robin order, the next one first.
    order: VecDeque<K>,
}

/// A permit, released on drop.
pub struct FairPermit<K: Hash + Eq + Clone> {
    semaphore: Arc<Inner<K>>,
    has_waited: bool,
}

/// A key of a fair semaphore: an account or a client network.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Requester {
    /// The id of an account.
    Account(Arc<str>),
    /// The first address of a client network.
    Network(IpAddr),
}

/// The IPv6 prefix lengths by which networks take turns, widest first: the largest, the common and the smallest assignment to
/// a customer (RFC 6177).
const PREFIX_LENGTHS: [u32; 3] = [48, 56, 64];

impl Requester {
    /// The nested keys of a call: its networks, widest first, then its account if it has one.
    pub fn path(client: IpAddr, account: Option<&Arc<str>>) -> Vec<Requester> {
        let networks = match client.to_canonical() {
            IpAddr::V6(address) => PREFIX_LENGTHS
                .map(|length| {
                    Requester::Network(Ipv6Addr::from(u128::from(address) & (u128::MAX << (128 - length))).into())
                })
                .to_vec(),
            address => vec![Requester::Network(address)],
        };
        networks.into_iter().chain(account.map(|id| Requester::Account(id.clone()))).collect()
    }
}

impl<K: Hash + Eq + Clone> Clone for FairSemaphore<K> {
    fn clone(&self) -> Self {
        FairSemaphore(self.0.clone())
    }
}

impl<K: Hash + Eq + Clone> FairSemaphore<K> {
    /// A semaphore with this number of permits, at least one.
    pub fn new(permits: usize) -> FairSemaphore<K> {
        let state = State { free: permits.max(1), queues: Queue::new(), arrivals: 0 };
        FairSemaphore(Arc::new(Inner { state: Mutex::new(state) }))
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    pub async fn acquire(&self, key: K) -> FairPermit<K> {
        self.acquire_nested(|| vec![key]).await
    }

    /// Like [`FairSemaphore::acquire`], with a key that is nested within others: the widest is first.
    pub async fn acquire_nested(&self, path: impl FnOnce() -> Vec<K>) -> FairPermit<K> {
        let waiter = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return FairPermit { semaphore: self.0.clone(), has_waited: false };
            }
            let (path, (sender, receiver)) = (path(), oneshot::channel());
            state.arrivals += 1;
            let number = state.arrivals;
            state.queues.enter(&path, number, sender);
            Waiter { semaphore: &self.0, receiver, path, number }
        };
        waiter.wait().await
    }
}

impl<K: Hash + Eq + Clone> FairPermit<K> {
    /// Whether no permit was free when it was asked for.
    pub fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl<K: Hash + Eq + Clone> Queue<K> {
    fn new() -> Queue<K> {
        Queue { own: BTreeMap::new(), within: HashMap::new(), order: VecDeque::new() }
    }

    fn enter(&mut self, path: &[K], number: u64, sender: oneshot::Sender<()>) {
        let Some((key, rest)) = path.split_first() else {
            self.own.insert(number, sender);
            return;
        };
        if !self.within.contains_key(key) {
            self.order.push_back(key.clone());
        }
        self.within.entry(key.clone()).or_insert_with(Queue::new).enter(rest, number, sender);
    }

    fn leave(&mut self, path: &[K], number: u64) {
        let queue = path.iter().try_fold(self, |queue, key| queue.within.get_mut(key));
        queue.and_then(|queue| queue.own.remove(&number));
    }

    /// Removes the waiter whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        if let Some((_, next)) = self.own.pop_first() {
            return Some(next);
        }
        while let Some(key) = self.order.pop_front() {
            let Some(queue) = self.within.get_mut(&key) else { continue };
            let next = queue.next();
            match queue.own.is_empty() && queue.within.is_empty() {
                true => _ = self.within.remove(&key),
                false => self.order.push_back(key),
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

/// A queued waiter. A permit that arrives while it is dropped goes to the next waiter.
struct Waiter<'a, K: Hash + Eq + Clone> {
    semaphore: &'a Arc<Inner<K>>,
    receiver: oneshot::Receiver<()>,
    path: Vec<K>,
    number: u64,
}

impl<K: Hash + Eq + Clone> Waiter<'_, K> {
    async fn wait(mut self) -> FairPermit<K> {
        // The sender stays in the queue until it sends the permit.
        let _ = (&mut self.receiver).await;
        FairPermit { semaphore: self.semaphore.clone(), has_waited: true }
    }
}

impl<K: Hash + Eq + Clone> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(()) => self.semaphore.release(),
            Err(_) => self.semaphore.lock().queues.leave(&self.path, self.number),
        }
    }
}

impl<K: Hash + Eq + Clone> Drop for FairPermit<K> {
    fn drop(&mut self) {
        self.semaphore.release();
    }
}

impl<K: Hash + Eq + Clone> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a released permit to the next waiter.
    fn release(&self) {
        let mut state = self.lock();
        while let Some(next) = state.queues.next() {
            if next.send(()).is_ok() {
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
        assert_eq!((state.free, state.queues.within.len(), state.queues.order.len()), (1, 0, 0));
    }

    #[tokio::test]
    async fn the_keys_within_a_key_share_its_turns() {
        let turns: FairSemaphore<u8> = FairSemaphore::new(1);
        let first = turns.acquire(0).await;
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for path in [[1, 1], [1, 2], [1, 3], [1, 3], [2, 1], [2, 1]] {
            let (turns, served) = (turns.clone(), served.clone());
            tasks.push(tokio::spawn(async move {
                let turn = turns.acquire_nested(|| path.to_vec()).await;
                assert!(turn.has_waited());
                served.lock().unwrap().push(path);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [[1, 1], [2, 1], [1, 2], [2, 1], [1, 3], [1, 3]]);
        let state = turns.0.lock();
        assert_eq!((state.free, state.queues.within.len(), state.queues.order.len()), (1, 0, 0));
    }

    #[test]
    fn an_ipv6_address_takes_turns_within_the_networks_of_its_customer() {
        let shown = |address: &str| -> Vec<String> {
            let account = Arc::from("usr_1");
            let path = Requester::path(address.parse().unwrap(), Some(&account)).into_iter();
            path.map(|requester| match requester {
                Requester::Account(id) => id.to_string(),
                Requester::Network(network) => network.to_string(),
            })
            .collect()
        };
        assert_eq!(shown("2001:db8:1:2345::6"), ["2001:db8:1::", "2001:db8:1:2300::", "2001:db8:1:2345::", "usr_1"]);
        assert_eq!(shown("::ffff:192.0.2.1"), ["192.0.2.1", "usr_1"]);
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
