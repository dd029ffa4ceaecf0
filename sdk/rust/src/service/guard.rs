//! Permission checks by the daemon, with a cache of positive results for at most ten seconds (decision "Delegated
//! tokens").

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{self, SHA256};
use openorch_api::{
    Body, Path,
    user::{IS_AUTHORIZED, IsAuthorizedRequest, PermissionId},
};
use tokio::time::Instant;

use super::Caller;
use crate::{Client, Error};

/// Lifetime of a cached positive result, and so the maximum delay until a revoked permission takes effect.
const ALLOW_TTL: Duration = Duration::from_secs(10);
/// Timeout of a check, during which the caller's request waits.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of cached results, about one megabyte.
const CAPACITY: usize = 10_000;

/// Checks the permissions of callers with the daemon. Cheap to clone; clones share the cache.
///
/// ```no_run
/// use openorch_sdk::{Client, Error, service::{Caller, PermissionGuard}};
///
/// # async fn example(client: Client, caller: &Caller) -> Result<(), Error> {
/// let guard = PermissionGuard::new(client);
/// guard.require(caller, "skeleton-svc:thing:edit").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PermissionGuard {
    client: Client,
    /// Slugs of accounts that are allowed regardless of their permissions.
    granted_slugs: Arc<[String]>,
    yeses: Arc<Mutex<AllowCache>>,
}

impl PermissionGuard {
    /// A guard that asks the client's server, with the token of each caller.
    ///
    /// ```
    /// use openorch_sdk::{ClientFactory, service::PermissionGuard};
    /// let guard = PermissionGuard::new(ClientFactory::new("http://127.0.0.1:58231")?.client());
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn new(client: Client) -> PermissionGuard {
        PermissionGuard {
            client: client.without_token().with_default_timeout(CHECK_TIMEOUT),
            granted_slugs: Arc::default(),
            yeses: Arc::new(Mutex::new(AllowCache::new(CAPACITY))),
        }
    }

    /// The same guard, which also allows these accounts regardless of their permissions, for example cooperating services.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::{Caller, PermissionGuard}};
    /// async fn bill(guard: &PermissionGuard, caller: &Caller) -> Result<(), Error> {
    ///     guard.with_granted_slugs(&["shop-svc"]).require(caller, "billing-svc:invoice:create").await
    /// }
    /// ```
    pub fn with_granted_slugs(&self, slugs: &[&str]) -> PermissionGuard {
        PermissionGuard { granted_slugs: slugs.iter().map(|slug| slug.to_string()).collect(), ..self.clone() }
    }

    /// Whether the caller has the permission. A positive result is cached for ten seconds, or until the caller's token
    /// expires; a negative one is never cached. Fails if the daemon is unreachable; the caller must not be allowed then.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::{Caller, PermissionGuard}};
    /// async fn may_edit(guard: &PermissionGuard, caller: &Caller) -> Result<bool, Error> {
    ///     guard.allows(caller, "skeleton-svc:thing:edit").await
    /// }
    /// ```
    pub async fn allows(&self, caller: &Caller, permission: &str) -> Result<bool, Error> {
        let key = cache_key(caller.token(), permission, &self.granted_slugs);
        let now = Instant::now();
        if self.cache().contains(&key, now) {
            return Ok(true);
        }
        let client = self.client.clone().with_token(caller.token())?;
        let input = (
            Path(PermissionId(permission.to_owned())),
            Body(IsAuthorizedRequest { granted_slugs: self.granted_slugs.to_vec() }),
        );
        match client.call(IS_AUTHORIZED, input).await {
            Ok(answer) if answer.0.authorized => {
                // The lifetime starts before the request, so that a slow response does not extend it.
                self.cache().insert(key, now, ALLOW_TTL.min(caller.remaining()));
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(refusal) if matches!(refusal.status(), Some(401 | 403)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fails with [`Error::Forbidden`] unless the caller has the permission.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::{Caller, PermissionGuard}};
    /// async fn edit(guard: &PermissionGuard, caller: &Caller) -> Result<(), Error> {
    ///     guard.require(caller, "skeleton-svc:thing:edit").await?;
    ///     // … edit.
    ///     Ok(())
    /// }
    /// ```
    pub async fn require(&self, caller: &Caller, permission: &str) -> Result<(), Error> {
        match self.allows(caller, permission).await? {
            true => Ok(()),
            false => Err(Error::Forbidden(format!("account `{}` lacks the permission `{permission}`", caller.slug()))),
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, AllowCache> {
        self.yeses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PermissionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PermissionGuard")
            .field("client", &self.client)
            .field("cached", &self.cache().expiry.len())
            .finish()
    }
}

type Key = [u8; 32];

/// The cache key. It contains a hash instead of the token, which is secret and long.
fn cache_key(token: &str, permission: &str, granted_slugs: &[String]) -> Key {
    let mut hash = digest::Context::new(&SHA256);
    hash.update(token.as_bytes());
    // Separator: tokens contain no NUL.
    hash.update(&[0]);
    hash.update(permission.as_bytes());
    for slug in granted_slugs {
        hash.update(&[0]);
        hash.update(slug.as_bytes());
    }
    let mut key = Key::default();
    key.copy_from_slice(hash.finish().as_ref());
    key
}

/// A cache of positive results with expiry times. When it is full, the oldest entry is evicted.
struct AllowCache {
    capacity: usize,
    expiry: HashMap<Key, Instant>,
    /// In insertion order, which is nearly the expiry order, since all lifetimes are at most `ALLOW_TTL`.
    queue: VecDeque<(Key, Instant)>,
}

impl AllowCache {
    fn new(capacity: usize) -> AllowCache {
        AllowCache { capacity, expiry: HashMap::new(), queue: VecDeque::new() }
    }

    fn contains(&self, key: &Key, now: Instant) -> bool {
        self.expiry.get(key).is_some_and(|until| now < *until)
    }

    fn insert(&mut self, key: Key, now: Instant, lifetime: Duration) {
        let is_expired = |until: &Instant| *until <= now;
        while let Some((oldest, until)) = self.queue.front().copied()
            && (is_expired(&until) || self.queue.len() >= self.capacity)
        {
            self.queue.pop_front();
            // The key may have been inserted again since.
            if self.expiry.get(&oldest) == Some(&until) {
                self.expiry.remove(&oldest);
            }
        }
        let until = now + lifetime;
        self.expiry.insert(key, until);
        self.queue.push_back((key, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yeses_end_and_never_grow_beyond_their_number() {
        let (mut cache, start) = (AllowCache::new(3), Instant::now());
        let second = Duration::from_secs(1);
        for name in 0..100u8 {
            cache.insert([name; 32], start, second * 10);
            assert!(cache.expiry.len() <= 3 && cache.queue.len() <= 3);
        }
        assert!(!cache.contains(&[96; 32], start) && cache.contains(&[97; 32], start));
        assert!(cache.contains(&[99; 32], start + second * 9) && !cache.contains(&[99; 32], start + second * 10));
        // A key that was inserted again is not evicted with its older entry.
        cache.insert([97; 32], start + second, second * 10);
        assert!(cache.contains(&[97; 32], start + second));
        cache.insert([1; 32], start + second * 60, second);
        assert_eq!((cache.expiry.len(), cache.queue.len()), (1, 1));
    }

    #[test]
    fn a_yes_is_of_one_token_and_one_permission() {
        let key = |token, permission| cache_key(token, permission, &[]);
        assert_ne!(key("a", "b"), key("ab", ""));
        assert_ne!(key("a", "b"), key("a", "c"));
        assert_eq!(key("a", "b"), key("a", "b"));
        assert_ne!(key("a", "b"), super::cache_key("a", "b", &["c".into()]));
    }
}
