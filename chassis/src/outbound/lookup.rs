//! Looking up the names of instances. The system's resolver blocks and cannot be cancelled, so that a name server which
//! does not answer holds a thread for many seconds; threads are shared out so that nobody's names use up all of them.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Names looked up at once, of each purpose.
const AT_ONCE: usize = 64;
/// How many of them may be names of one owner.
const AT_ONCE_OF_ONE_OWNER: usize = 8;

/// Looks up the addresses of a host; may block for long.
pub type Resolver = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What the host's configuration says: `/etc/hosts`, DNS and the like.
pub fn system_resolver() -> Arc<Resolver> {
    Arc::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
}

/// What a name is looked up for.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// A registration or a probe, of whose names accounts choose any number.
    Check,
    /// A request on its way to an instance, which must not wait behind those.
    Request,
}

pub struct Lookups {
    resolver: Arc<Resolver>,
    checks: Turns,
    requests: Turns,
}

impl Lookups {
    pub fn new(resolver: Arc<Resolver>) -> Lookups {
        Lookups { resolver, checks: Turns::new(), requests: Turns::new() }
    }

    /// The addresses of a host that `owner` named. Waits for a turn; its caller has a time limit. The turn is given back by
    /// the thread and not by the caller, who may have given up long before.
    pub async fn addresses(&self, host: &str, port: u16, owner: &str, purpose: Purpose) -> io::Result<Vec<SocketAddr>> {
        let turns = match purpose {
            Purpose::Check => &self.checks,
            Purpose::Request => &self.requests,
        };
        let turn = turns.take(owner).await?;
        let (resolver, host) = (self.resolver.clone(), host.to_owned());
        let lookup = tokio::task::spawn_blocking(move || {
            let addresses = resolver(&host, port);
            drop(turn);
            addresses
        });
        lookup.await.map_err(io::Error::other)?
    }
}

/// The threads for one purpose.
struct Turns {
    all: Arc<Semaphore>,
    /// Of the owners whose names are being looked up, or wait for it.
    shares: Mutex<HashMap<Box<str>, Weak<Semaphore>>>,
}

/// A thread for one lookup: of all, and of the owner's share.
type Turn = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Turns {
    fn new() -> Turns {
        Turns { all: Arc::new(Semaphore::new(AT_ONCE)), shares: Mutex::default() }
    }

    async fn take(&self, owner: &str) -> io::Result<Turn> {
        // The share first: who waits for its own must not hold up others.
        let share = self.share(owner).acquire_owned().await.map_err(io::Error::other)?;
        let all = self.all.clone().acquire_owned().await.map_err(io::Error::other)?;
        Ok((all, share))
    }

    fn share(&self, owner: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(owner).and_then(Weak::upgrade) {
            return share;
        }
        // Those that nobody uses any more go when another comes, so that there are never more than are in use.
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(AT_ONCE_OF_ONE_OWNER));
        shares.insert(owner.into(), Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Condvar, atomic::AtomicUsize, atomic::Ordering},
        time::Duration,
    };

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A name server that does not answer for names that end in `.silent` until it is let go.
    #[derive(Default)]
    struct Silence {
        over: Mutex<bool>,
        changed: Condvar,
        asked: AtomicUsize,
    }

    impl Silence {
        fn resolver(self: &Arc<Self>) -> Arc<Resolver> {
            let silence = self.clone();
            Arc::new(move |host, port| {
                if host.ends_with(".silent") {
                    silence.asked.fetch_add(1, Ordering::SeqCst);
                    drop(silence.changed.wait_while(silence.over.lock().unwrap(), |over| !*over).unwrap());
                }
                Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
            })
        }

        fn end(&self) {
            *self.over.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }

    #[tokio::test]
    async fn names_that_resolve_slowly_take_the_turns_of_their_owner_alone() {
        let silence = Arc::new(Silence::default());
        let lookups = Arc::new(Lookups::new(silence.resolver()));
        let mut waiting = JoinSet::new();
        for n in 0..200 {
            let lookups = lookups.clone();
            waiting.spawn(async move { lookups.addresses(&format!("{n}.silent"), 1, "slow", Purpose::Check).await });
        }
        // The callers give up; the threads do not.
        let all_turns_taken = async {
            while silence.asked.load(Ordering::SeqCst) < AT_ONCE_OF_ONE_OWNER {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, all_turns_taken).await.expect("the share should be used up");
        waiting.shutdown().await;
        let late = lookups.addresses("late.silent", 1, "slow", Purpose::Check);
        assert!(timeout(Duration::from_millis(1), late).await.is_err(), "its share is used up");
        for purpose in [Purpose::Check, Purpose::Request] {
            let other = lookups.addresses("quick", 7, "other", purpose);
            assert_eq!(timeout(LONG, other).await.unwrap().unwrap(), [SocketAddr::from(([192, 0, 2, 1], 7))]);
        }
        assert!(silence.asked.load(Ordering::SeqCst) <= AT_ONCE_OF_ONE_OWNER);
        silence.end();
        let again = lookups.addresses("quick", 7, "slow", Purpose::Check);
        timeout(LONG, again).await.expect("the threads give their turns back").unwrap();
        assert!(lookups.checks.shares.lock().unwrap().len() <= 2);
    }
}
