//! Asks the daemon whether a caller has a permission, and keeps its yes for ten seconds at most (decision "Delegated
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

use crate::{Client, Error};

use super::Caller;

/// The longest a yes is kept: so long may a caller go on after a permission was taken away.
const KEPT: Duration = Duration::from_secs(10);
/// A request waits for this answer.
const TIME_OUT: Duration = Duration::from_secs(10);
/// At most so many yeses are kept, about a megabyte of them.
const CAPACITY: usize = 10_000;

/// Decides by the daemon's word who may do what. Cheap to clone; clones share what is kept.
///
/// ```no_run
/// use openorch_sdk::{Client, Error, service::{Caller, Guard}};
///
/// # async fn example(client: Client, caller: &Caller) -> Result<(), Error> {
/// let guard = Guard::new(client);
/// guard.require(caller, "skeleton-svc:thing:edit").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Guard {
    client: Client,
    /// Accounts that pass whatever permissions they have.
    granted_slugs: Arc<[String]>,
    yeses: Arc<Mutex<Yeses>>,
}

impl Guard {
    /// Asks the client's server, in the name of each caller.
    ///
    /// ```
    /// use openorch_sdk::{ClientFactory, service::Guard};
    /// let guard = Guard::new(ClientFactory::new("http://127.0.0.1:58231")?.client());
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn new(client: Client) -> Guard {
        Guard {
            client: client.without_token().or_time_out(TIME_OUT),
            granted_slugs: Arc::default(),
            yeses: Arc::new(Mutex::new(Yeses::new(CAPACITY))),
        }
    }

    /// The same guard letting these accounts pass too, whatever permissions they have: services that work together, say.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::{Caller, Guard}};
    /// async fn bill(guard: &Guard, caller: &Caller) -> Result<(), Error> {
    ///     guard.granting(&["shop-svc"]).require(caller, "billing-svc:invoice:create").await
    /// }
    /// ```
    pub fn granting(&self, slugs: &[&str]) -> Guard {
        Guard { granted_slugs: slugs.iter().map(|slug| slug.to_string()).collect(), ..self.clone() }
    }

    /// Whether the caller has the permission. A yes may be ten seconds old, though never older than the caller's token;
    /// a no is always fresh. Fails where the daemon cannot be asked: then nobody has been let in.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::{Caller, Guard}};
    /// async fn may_edit(guard: &Guard, caller: &Caller) -> Result<bool, Error> {
    ///     guard.allows(caller, "skeleton-svc:thing:edit").await
    /// }
    /// ```
    pub async fn allows(&self, caller: &Caller, permission: &str) -> Result<bool, Error> {
        let key = key(caller.token(), permission, &self.granted_slugs);
        let now = Instant::now();
        if self.yeses().is_kept(&key, now) {
            return Ok(true);
        }
        let client = self.client.clone().with_token(caller.token())?;
        let question = (
            Path(PermissionId(permission.to_owned())),
            Body(IsAuthorizedRequest { granted_slugs: self.granted_slugs.to_vec() }),
        );
        match client.call(IS_AUTHORIZED, question).await {
            Ok(answer) if answer.0.authorized => {
                // Counted from before the question, so that a slow answer does not make it live longer.
                self.yeses().keep(key, now, KEPT.min(caller.remaining()));
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(refusal) if matches!(refusal.status(), Some(401 | 403)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// [`Error::Forbidden`] unless the caller has the permission.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::{Caller, Guard}};
    /// async fn edit(guard: &Guard, caller: &Caller) -> Result<(), Error> {
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

    fn yeses(&self) -> std::sync::MutexGuard<'_, Yeses> {
        self.yeses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("client", &self.client).field("kept", &self.yeses().until.len()).finish()
    }
}

type Key = [u8; 32];

/// Who may what. Tokens are not kept, only what they hash to: they are secrets, and long.
fn key(token: &str, permission: &str, granted_slugs: &[String]) -> Key {
    let mut hash = digest::Context::new(&SHA256);
    hash.update(token.as_bytes());
    // No token holds a NUL.
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

/// What was allowed, until when; when there is no room the oldest goes.
struct Yeses {
    capacity: usize,
    until: HashMap<Key, Instant>,
    /// In the order they came, and so nearly in that in which they end: none lives longer than `KEPT`.
    order: VecDeque<(Key, Instant)>,
}

impl Yeses {
    fn new(capacity: usize) -> Yeses {
        Yeses { capacity, until: HashMap::new(), order: VecDeque::new() }
    }

    fn is_kept(&self, key: &Key, now: Instant) -> bool {
        self.until.get(key).is_some_and(|until| now < *until)
    }

    fn keep(&mut self, key: Key, now: Instant, lifetime: Duration) {
        let ended = |until: &Instant| *until <= now;
        while let Some((oldest, until)) = self.order.front().copied()
            && (ended(&until) || self.order.len() >= self.capacity)
        {
            self.order.pop_front();
            // It may have been kept anew since.
            if self.until.get(&oldest) == Some(&until) {
                self.until.remove(&oldest);
            }
        }
        let until = now + lifetime;
        self.until.insert(key, until);
        self.order.push_back((key, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yeses_end_and_never_grow_beyond_their_number() {
        let (mut yeses, start) = (Yeses::new(3), Instant::now());
        let second = Duration::from_secs(1);
        for name in 0..100u8 {
            yeses.keep([name; 32], start, second * 10);
            assert!(yeses.until.len() <= 3 && yeses.order.len() <= 3);
        }
        assert!(!yeses.is_kept(&[96; 32], start) && yeses.is_kept(&[97; 32], start));
        assert!(yeses.is_kept(&[99; 32], start + second * 9) && !yeses.is_kept(&[99; 32], start + second * 10));
        // One that is kept anew does not go when its older entry does.
        yeses.keep([97; 32], start + second, second * 10);
        assert!(yeses.is_kept(&[97; 32], start + second));
        yeses.keep([1; 32], start + second * 60, second);
        assert_eq!((yeses.until.len(), yeses.order.len()), (1, 1));
    }

    #[test]
    fn a_yes_is_of_one_token_and_one_permission() {
        let key = |token, permission| key(token, permission, &[]);
        assert_ne!(key("a", "b"), key("ab", ""));
        assert_ne!(key("a", "b"), key("a", "c"));
        assert_eq!(key("a", "b"), key("a", "b"));
        assert_ne!(key("a", "b"), super::key("a", "b", &["c".into()]));
    }
}
