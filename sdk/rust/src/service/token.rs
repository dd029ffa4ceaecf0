//! Checks callers' tokens without asking the daemon: RS256 signatures (RFC 7515) against its keys, which are fetched once,
//! kept, and fetched again when they change. Whether the session still stands is not seen here: the daemon knows.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use openorch_api::{Json, user::GET_KEY_SET};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use crate::{Client, Error};

/// Who signs.
const ISSUER: &str = "openorch";
/// Keys are asked for at most this often, however many tokens name keys that are not known.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys older than this are asked for again, so that one that was withdrawn is not trusted for ever.
const FRESH: Duration = Duration::from_secs(3600);
/// A token's end is seen by another clock than the one that set it.
const LEEWAY: Duration = Duration::from_secs(60);
const FETCH_TIME_OUT: Duration = Duration::from_secs(5);
/// Longer than any token; what is longer is not looked at.
const LONGEST: usize = 16 << 10;

/// Who calls a service, as the daemon has signed it.
///
/// ```
/// use openorch_sdk::service::Caller;
///
/// async fn hello(caller: Caller) -> String {
///     format!("hello, {}", caller.slug())
/// }
/// ```
#[derive(Clone)]
pub struct Caller {
    claims: Arc<Claims>,
    token: Arc<str>,
}

#[derive(Deserialize)]
struct Claims {
    oui: String,
    olu: String,
    #[serde(default)]
    ori: Vec<String>,
    iss: String,
    #[serde(default)]
    iat: u64,
    exp: u64,
    aud: Option<String>,
}

impl Caller {
    /// The id of the account.
    ///
    /// ```
    /// # use openorch_sdk::service::Caller;
    /// # fn example(caller: &Caller) {
    /// assert!(caller.user_id().starts_with("usr_"));
    /// # }
    /// ```
    pub fn user_id(&self) -> &str {
        &self.claims.oui
    }

    /// The slug of the account.
    ///
    /// ```
    /// # use openorch_sdk::service::Caller;
    /// fn is_the_admin(caller: &Caller) -> bool {
    ///     caller.slug() == "openorch"
    /// }
    /// ```
    pub fn slug(&self) -> &str {
        &self.claims.olu
    }

    /// The roles that the account had when the token was made.
    ///
    /// ```
    /// # use openorch_sdk::{api::role, service::Caller};
    /// fn may_manage(caller: &Caller) -> bool {
    ///     caller.roles().iter().any(|role| role == role::ADMIN)
    /// }
    /// ```
    pub fn roles(&self) -> &[String] {
        &self.claims.ori
    }

    /// When the token ends.
    ///
    /// ```
    /// # use openorch_sdk::service::Caller;
    /// # fn example(caller: &Caller) {
    /// println!("until {:?}", caller.expires_at());
    /// # }
    /// ```
    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.claims.exp)).unwrap_or(UNIX_EPOCH)
    }

    /// The token itself, to call on in the caller's name.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// How long the token is still good for.
    pub(crate) fn remaining(&self) -> Duration {
        self.expires_at().duration_since(now()).unwrap_or_default()
    }
}

// Written by hand so that a token never lands in a log through `{:?}`.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("user_id", &self.claims.oui).field("slug", &self.claims.olu).finish()
    }
}

/// Checks tokens that were made for one service. Cheap to clone; clones share the keys.
///
/// ```no_run
/// use openorch_sdk::{ClientFactory, Error, http::HeaderMap, service::{Caller, TokenCheck}};
///
/// # async fn example(incoming: &HeaderMap) -> Result<(), Error> {
/// let check = TokenCheck::new(ClientFactory::new("http://127.0.0.1:58231")?.client(), "skeleton-svc");
/// let caller: Caller = check.caller(incoming).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TokenCheck {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    audience: String,
    keys: RwLock<Arc<Keys>>,
    /// When the keys last came, or failed to; held while they are asked for, so that one at a time does.
    asked: Arc<Mutex<Option<Instant>>>,
}

type Asked = OwnedMutexGuard<Option<Instant>>;

#[derive(Debug, Default)]
struct Keys {
    by_id: HashMap<String, RsaPublicKeyComponents<Vec<u8>>>,
    /// `None`: never fetched.
    fetched: Option<Instant>,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: String,
    /// Extensions that whoever does not know them must refuse (RFC 7515, section 4.1.11): this knows none.
    crit: Option<serde_json::Value>,
}

impl TokenCheck {
    /// Checks tokens made for `audience`, the slug of the service, with the keys of the client's server.
    ///
    /// ```
    /// use openorch_sdk::{ClientFactory, service::TokenCheck};
    /// let check = TokenCheck::new(ClientFactory::new("http://127.0.0.1:58231")?.client(), "skeleton-svc");
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn new(client: Client, audience: &str) -> TokenCheck {
        let client = client.without_token().with_time_out(FETCH_TIME_OUT);
        let (keys, asked) = Default::default();
        TokenCheck { inner: Arc::new(Inner { client, audience: audience.to_owned(), keys, asked }) }
    }

    /// The caller of a received request. [`Error::Unauthenticated`] where it carries no token, or none for this service.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, http::HeaderMap, service::TokenCheck};
    /// async fn who(check: &TokenCheck, incoming: &HeaderMap) -> Result<String, Error> {
    ///     Ok(check.caller(incoming).await?.slug().to_owned())
    /// }
    /// ```
    pub async fn caller(&self, request: &HeaderMap) -> Result<Caller, Error> {
        let Some(value) = request.get(header::AUTHORIZATION) else {
            return Err(refused("no token came with the request; sign in and send it as `Authorization: Bearer …`"));
        };
        let text = value.to_str().map_err(|_| refused("the token holds characters that no token has"))?.trim();
        let token = match text.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
            _ => text,
        };
        self.verify(token).await
    }

    /// Who a token speaks for. [`Error::Unauthenticated`] says why it is refused; a temporary error that the keys could
    /// not be fetched.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::TokenCheck};
    /// async fn is_ours(check: &TokenCheck, token: &str) -> bool {
    ///     check.verify(token).await.is_ok()
    /// }
    /// ```
    pub async fn verify(&self, token: &str) -> Result<Caller, Error> {
        let Some((head, signed, payload, signature)) = take_apart(token) else {
            return Err(refused("the token is not one of the platform's; sign in again"));
        };
        if head.alg != "RS256" || head.crit.is_some() {
            return Err(refused("the token is signed in another way than the platform's; sign in again"));
        }
        let keys = self.keys_with(&head.kid).await?;
        let is_signed = keys
            .by_id
            .get(&head.kid)
            .is_some_and(|key| key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature).is_ok());
        if !is_signed {
            return Err(refused("the token is not signed by the daemon; sign in again"));
        }
        let claims: Claims = serde_json::from_slice(&payload)
            .map_err(|_| refused("the token does not say who it speaks for; sign in again"))?;
        if claims.iss != ISSUER {
            return Err(refused("the token was issued by somebody else; sign in again"));
        }
        if claims.aud.as_deref() != Some(&self.inner.audience) {
            return Err(Error::Unauthenticated(format!(
                "the token was not made for `{}`; call it through the gateway",
                self.inner.audience
            )));
        }
        let caller = Caller { claims: Arc::new(claims), token: token.into() };
        // One that the daemon made while its clock was ahead would be good until the clock has caught up.
        let issued_at = UNIX_EPOCH.checked_add(Duration::from_secs(caller.claims.iat));
        if issued_at.is_none_or(|issued_at| issued_at > now() + LEEWAY) {
            return Err(refused("the token was made later than now by this machine's clock; set the clock right"));
        }
        if caller.expires_at().checked_add(LEEWAY).is_none_or(|end| end <= now()) {
            return Err(refused("the token has ended; call again through the gateway"));
        }
        Ok(caller)
    }

    /// The keys: at once where this one is among them, else as they are now.
    async fn keys_with(&self, id: &str) -> Result<Arc<Keys>, Error> {
        let known = self.inner.known();
        let inner = Arc::clone(&self.inner);
        // Asked for on a task of its own: a caller who gives up does not end what all others wait for.
        if !known.by_id.contains_key(id) {
            let id = id.to_owned();
            let refreshed = tokio::spawn(async move {
                let asked = Arc::clone(&inner.asked).lock_owned().await;
                inner.refreshed(&id, asked).await
            });
            return refreshed.await.unwrap_or_else(|_| Err(no_keys(&self.inner)));
        }
        if known.fetched.is_none_or(|at| at.elapsed() >= FRESH)
            && let Ok(asked) = Arc::clone(&self.inner.asked).try_lock_owned()
            && asked.is_none_or(|at| at.elapsed() >= PAUSE)
        {
            tokio::spawn(async move { inner.refresh(asked).await });
        }
        Ok(known)
    }
}

impl Inner {
    /// The keys of now, unless they were asked for a moment ago.
    async fn refreshed(&self, id: &str, asked: Asked) -> Result<Arc<Keys>, Error> {
        let known = self.known();
        if known.by_id.contains_key(id) || asked.is_some_and(|at| at.elapsed() < PAUSE) {
            return match known.fetched {
                Some(_) => Ok(known),
                None => Err(no_keys(self)),
            };
        }
        self.refresh(asked).await
    }

    async fn refresh(&self, mut asked: Asked) -> Result<Arc<Keys>, Error> {
        let fetched = self.fetch().await.map(Arc::new);
        *asked = Some(Instant::now());
        match &fetched {
            Ok(keys) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(keys),
            // Callers of before are still known by the keys of before.
            Err(error) => tracing::warn!("the daemon's keys could not be fetched: {error}"),
        }
        fetched
    }

    fn known(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn fetch(&self) -> Result<Keys, Error> {
        let Json(set) = self.client.call(GET_KEY_SET, ()).await?;
        let signs = |key: &openorch_api::user::Key| key.kty == "RSA" && matches!(key.use_.as_str(), "sig" | "");
        let by_id = set.keys.into_iter().filter(signs).filter_map(|key| {
            let (n, e) = (URL_SAFE_NO_PAD.decode(&key.n).ok()?, URL_SAFE_NO_PAD.decode(&key.e).ok()?);
            Some((key.kid, RsaPublicKeyComponents { n, e }))
        });
        Ok(Keys { by_id: by_id.collect(), fetched: Some(Instant::now()) })
    }
}

fn no_keys(inner: &Inner) -> Error {
    Error::Unreachable {
        operation: GET_KEY_SET.row.id.into(),
        url: inner.client.url().to_owned(),
        reason: "the keys could not be fetched a moment ago".into(),
        was_sent: false,
    }
}

/// Head, signed text, payload and signature of a token in the compact form.
fn take_apart(token: &str) -> Option<(Head, &str, Vec<u8>, Vec<u8>)> {
    if token.len() > LONGEST {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (head, payload) = signed.split_once('.')?;
    let head = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
    Some((head, signed, URL_SAFE_NO_PAD.decode(payload).ok()?, URL_SAFE_NO_PAD.decode(signature).ok()?))
}

fn refused(why: &str) -> Error {
    Error::Unauthenticated(why.to_owned())
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks the machine; ends of tokens are wall time")]
fn now() -> SystemTime {
    SystemTime::now()
}
