//! Name resolution of instances. The system's resolver blocks and cannot be cancelled, so an unresponsive name server holds a
//! thread for many seconds. Concurrent lookups are limited per owner, so that no owner's names occupy all threads.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum concurrent lookups per purpose.
const MAX_LOOKUPS: usize = 64;
/// Maximum concurrent lookups of one owner per purpose.
const MAX_LOOKUPS_PER_OWNER: usize = 8;

/// Resolves a host and port; may block for long.
pub type Resolver = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The system's resolver: `/etc/hosts`, DNS and the like.
pub fn system_resolver() -> Arc<Resolver> {
    Arc::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
}

/// The purpose of a lookup. Each has a limit of its own.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// A registration or a probe, for which accounts can choose any number of names.
    Check,
    /// A request to an instance, which must not queue behind those.
    Request,
}

pub struct Lookups {
    resolver: Arc<Resolver>,
    checks: LookupLimits,
    requests: LookupLimits,
}

impl Lookups {
    pub fn new(resolver: Arc<Resolver>) -> Lookups {
        Lookups { resolver, checks: LookupLimits::new(), requests: LookupLimits::new() }
    }

    /// Resolves a host that `owner` registered. Waits for a permit; the caller must set a timeout. The permit is released by
    /// the thread, since the caller may have timed out long before.
    pub async fn resolve(&self, host: &str, port: u16, owner: &str, purpose: Purpose) -> io::Result<Vec<SocketAddr>> {
        let limits = match purpose {
            Purpose::Check => &self.checks,
            Purpose::Request => &self.requests,
        };
        let permits = limits.acquire(owner).await?;
        let (resolver, host) = (self.resolver.clone(), host.to_owned());
        let lookup = tokio::task::spawn_blocking(move || {
            let addresses = resolver(&host, port);
            drop(permits);
            addresses
        });
        lookup.await.map_err(io::Error::other)?
    }
}

/// The concurrency limits of one purpose.
struct LookupLimits {
    all: Arc<Semaphore>,
    /// The limits of owners with lookups that run or wait.
    owner_limits: Mutex<HashMap<Box<str>, Weak<Semaphore>>>,
}

/// Permits for one lookup, of the total and of the owner's limit.
type LookupPermits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl LookupLimits {
    fn new() -> LookupLimits {
        LookupLimits { all: Arc::new(Semaphore::new(MAX_LOOKUPS)), owner_limits: Mutex::default() }
    }

    async fn acquire(&self, owner: &str) -> io::Result<LookupPermits> {
        // The owner's permit comes first: a lookup that waits for it must not hold one of the total.
        let share = self.owner_limit(owner).acquire_owned().await.map_err(io::Error::other)?;
        let all = self.all.clone().acquire_owned().await.map_err(io::Error::other)?;
        Ok((all, share))
    }

    fn owner_limit(&self, owner: &str) -> Arc<Semaphore> {
        let mut shares = self.owner_limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(owner).and_then(Weak::upgrade) {
            return share;
        }
        // Unused entries are removed on each insertion, which bounds the map.
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(MAX_LOOKUPS_PER_OWNER));
        shares.insert(owner.into(), Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Condvar,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A name server that blocks lookups of names ending in `.silent` until [`UnresponsiveServer::end`].
    #[derive(Default)]
    struct UnresponsiveServer {
        is_released: Mutex<bool>,
        changed: Condvar,
        asked: AtomicUsize,
    }

    impl UnresponsiveServer {
        fn resolver(self: &Arc<Self>) -> Arc<Resolver> {
            let silence = self.clone();
            Arc::new(move |host, port| {
                if host.ends_with(".silent") {
                    silence.asked.fetch_add(1, Ordering::SeqCst);
                    drop(silence.changed.wait_while(silence.is_released.lock().unwrap(), |over| !*over).unwrap());
                }
                Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))])
            })
        }

        fn end(&self) {
            *self.is_released.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }

    #[tokio::test]
    async fn names_that_resolve_slowly_take_the_turns_of_their_owner_alone() {
        let silence = Arc::new(UnresponsiveServer::default());
        let lookups = Arc::new(Lookups::new(silence.resolver()));
        let mut waiting = JoinSet::new();
        for n in 0..200 {
            let lookups = lookups.clone();
            waiting.spawn(async move { lookups.resolve(&format!("{n}.silent"), 1, "slow", Purpose::Check).await });
        }
        // The callers time out; the threads do not.
        let limit_reached = async {
            while silence.asked.load(Ordering::SeqCst) < MAX_LOOKUPS_PER_OWNER {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, limit_reached).await.expect("the owner's limit should be reached");
        waiting.shutdown().await;
        let late = lookups.resolve("late.silent", 1, "slow", Purpose::Check);
        assert!(timeout(Duration::from_millis(1), late).await.is_err(), "the owner's limit is reached");
        for purpose in [Purpose::Check, Purpose::Request] {
            let other = lookups.resolve("quick", 7, "other", purpose);
            assert_eq!(timeout(LONG, other).await.unwrap().unwrap(), [SocketAddr::from(([192, 0, 2, 1], 7))]);
        }
        assert!(silence.asked.load(Ordering::SeqCst) <= MAX_LOOKUPS_PER_OWNER);
        silence.end();
        let again = lookups.resolve("quick", 7, "slow", Purpose::Check);
        timeout(LONG, again).await.expect("the threads should release their permits").unwrap();
        assert!(lookups.checks.owner_limits.lock().unwrap().len() <= 2);
    }
}
