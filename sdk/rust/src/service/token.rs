//! Verifies callers' tokens locally: RS256 signatures (RFC 7515) with the daemon's public keys, which are cached and
//! fetched again when they change. A revoked session is not detected here; only the daemon knows it.

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

/// The expected `iss` claim.
const ISSUER: &str = "openorch";
/// Minimum interval between fetches of the keys, however many tokens name unknown keys.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum age of cached keys, so that a withdrawn key does not stay trusted.
const MAX_KEY_AGE: Duration = Duration::from_secs(3600);
/// Tolerated clock difference between the daemon and this machine.
const LEEWAY: Duration = Duration::from_secs(60);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of a token in bytes; longer ones are rejected unparsed.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// The authenticated caller of a service. An axum extractor.
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

    /// The roles of the account when the token was issued.
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

    /// When the token expires.
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

    /// The token, to make calls on behalf of the caller.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The remaining lifetime of the token.
    pub(crate) fn remaining(&self) -> Duration {
        self.expires_at().duration_since(now()).unwrap_or_default()
    }
}

// Not derived, so that `{:?}` never logs the token.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("user_id", &self.claims.oui).field("slug", &self.claims.olu).finish()
    }
}

/// Verifies tokens issued for one service. Cheap to clone; clones share the cached keys.
///
/// ```no_run
/// use openorch_sdk::{ClientFactory, Error, http::HeaderMap, service::{Caller, TokenVerifier}};
///
/// # async fn example(incoming: &HeaderMap) -> Result<(), Error> {
/// let verifier = TokenVerifier::new(ClientFactory::new("http://127.0.0.1:58231")?.client(), "skeleton-svc");
/// let caller: Caller = verifier.authenticate(incoming).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TokenVerifier {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    audience: String,
    keys: RwLock<Arc<KeyCache>>,
    /// When the keys were last fetched, successfully or not. Locked during a fetch, so that only one runs at a time.
    last_fetch: Arc<Mutex<Option<Instant>>>,
}

type FetchGuard = OwnedMutexGuard<Option<Instant>>;

#[derive(Debug, Default)]
struct KeyCache {
    by_id: HashMap<String, RsaPublicKeyComponents<Vec<u8>>>,
    /// `None`: never fetched.
    fetched_at: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: String,
    /// Critical extensions (RFC 7515, section 4.1.11). None is supported, so a token that has some is rejected.
    crit: Option<serde_json::Value>,
}

impl TokenVerifier {
    /// A verifier of tokens for `audience`, the slug of the service, with the keys of the client's server.
    ///
    /// ```
    /// use openorch_sdk::{ClientFactory, service::TokenVerifier};
    /// let verifier = TokenVerifier::new(ClientFactory::new("http://127.0.0.1:58231")?.client(), "skeleton-svc");
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn new(client: Client, audience: &str) -> TokenVerifier {
        let client = client.without_token().with_timeout(FETCH_TIMEOUT);
        let (keys, asked) = Default::default();
        TokenVerifier { inner: Arc::new(Inner { client, audience: audience.to_owned(), keys, last_fetch: asked }) }
    }

    /// Authenticates a received request. Fails with [`Error::Unauthenticated`] if it has no valid token for this service.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, http::HeaderMap, service::TokenVerifier};
    /// async fn who(verifier: &TokenVerifier, incoming: &HeaderMap) -> Result<String, Error> {
    ///     Ok(verifier.authenticate(incoming).await?.slug().to_owned())
    /// }
    /// ```
    pub async fn authenticate(&self, request: &HeaderMap) -> Result<Caller, Error> {
        let Some(value) = request.get(header::AUTHORIZATION) else {
            return Err(unauthenticated("the request has no token; sign in and send it as `Authorization: Bearer …`"));
        };
        let text = value.to_str().map_err(|_| unauthenticated("the token contains invalid characters"))?.trim();
        let token = match text.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
            _ => text,
        };
        self.verify(token).await
    }

    /// Verifies a token and returns its caller. Fails with [`Error::Unauthenticated`] if the token is invalid, and with a
    /// transient error if the keys cannot be fetched.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::TokenVerifier};
    /// async fn is_ours(verifier: &TokenVerifier, token: &str) -> bool {
    ///     verifier.verify(token).await.is_ok()
    /// }
    /// ```
    pub async fn verify(&self, token: &str) -> Result<Caller, Error> {
        let Some((head, signed, payload, signature)) = parse_token(token) else {
            return Err(unauthenticated("the token is malformed; sign in again"));
        };
        if head.alg != "RS256" || head.crit.is_some() {
            return Err(unauthenticated("the token has an unsupported algorithm; sign in again"));
        }
        let keys = self.keys_for(&head.kid).await?;
        let is_signed = keys
            .by_id
            .get(&head.kid)
            .is_some_and(|key| key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature).is_ok());
        if !is_signed {
            return Err(unauthenticated("the signature of the token is invalid; sign in again"));
        }
        let claims: Claims = serde_json::from_slice(&payload)
            .map_err(|_| unauthenticated("the token lacks required claims; sign in again"))?;
        if claims.iss != ISSUER {
            return Err(unauthenticated("the token has another issuer; sign in again"));
        }
        if claims.aud.as_deref() != Some(&self.inner.audience) {
            return Err(Error::Unauthenticated(format!(
                "the token was not issued for `{}`; call it through the gateway",
                self.inner.audience
            )));
        }
        let caller = Caller { claims: Arc::new(claims), token: token.into() };
        // A token issued while the daemon's clock was ahead would otherwise be valid for too long.
        let issued_at = UNIX_EPOCH.checked_add(Duration::from_secs(caller.claims.iat));
        if issued_at.is_none_or(|issued_at| issued_at > now() + LEEWAY) {
            return Err(unauthenticated(
                "the token was issued in the future by this machine's clock; correct the clock",
            ));
        }
        if caller.expires_at().checked_add(LEEWAY).is_none_or(|end| end <= now()) {
            return Err(unauthenticated("the token has expired; call again through the gateway"));
        }
        Ok(caller)
    }

    /// The cached keys if they include `id`, otherwise freshly fetched ones.
    async fn keys_for(&self, id: &str) -> Result<Arc<KeyCache>, Error> {
        let known = self.inner.cached_keys();
        let inner = Arc::clone(&self.inner);
        // Fetched in a separate task, so that a cancelled caller does not cancel the fetch that others wait for.
        if !known.by_id.contains_key(id) {
            let id = id.to_owned();
            let refreshed = tokio::spawn(async move {
                let asked = Arc::clone(&inner.last_fetch).lock_owned().await;
                inner.refresh_if_due(&id, asked).await
            });
            return refreshed.await.unwrap_or_else(|_| Err(keys_unavailable(&self.inner)));
        }
        if known.fetched_at.is_none_or(|at| at.elapsed() >= MAX_KEY_AGE)
            && let Ok(asked) = Arc::clone(&self.inner.last_fetch).try_lock_owned()
            && asked.is_none_or(|at| at.elapsed() >= MIN_REFRESH_INTERVAL)
        {
            tokio::spawn(async move { inner.refresh(asked).await });
        }
        Ok(known)
    }
}

impl Inner {
    /// Fetches the keys, unless they now include `id` or were fetched a moment ago.
    async fn refresh_if_due(&self, id: &str, asked: FetchGuard) -> Result<Arc<KeyCache>, Error> {
        let known = self.cached_keys();
        if known.by_id.contains_key(id) || asked.is_some_and(|at| at.elapsed() < MIN_REFRESH_INTERVAL) {
            return match known.fetched_at {
                Some(_) => Ok(known),
                None => Err(keys_unavailable(self)),
            };
        }
        self.refresh(asked).await
    }

    async fn refresh(&self, mut asked: FetchGuard) -> Result<Arc<KeyCache>, Error> {
        let fetched = self.fetch().await.map(Arc::new);
        *asked = Some(Instant::now());
        match &fetched {
            Ok(keys) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(keys),
            // The previous keys stay in use.
            Err(error) => tracing::warn!("cannot fetch the daemon's keys: {error}"),
        }
        fetched
    }

    fn cached_keys(&self) -> Arc<KeyCache> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn fetch(&self) -> Result<KeyCache, Error> {
        let Json(set) = self.client.call(GET_KEY_SET, ()).await?;
        let is_signing_key =
            |key: &openorch_api::user::Key| key.kty == "RSA" && matches!(key.use_.as_str(), "sig" | "");
        let by_id = set.keys.into_iter().filter(is_signing_key).filter_map(|key| {
            let (n, e) = (URL_SAFE_NO_PAD.decode(&key.n).ok()?, URL_SAFE_NO_PAD.decode(&key.e).ok()?);
            Some((key.kid, RsaPublicKeyComponents { n, e }))
        });
        Ok(KeyCache { by_id: by_id.collect(), fetched_at: Some(Instant::now()) })
    }
}

fn keys_unavailable(inner: &Inner) -> Error {
    Error::Unreachable {
        operation: GET_KEY_SET.row.id.into(),
        url: inner.client.url().to_owned(),
        reason: "a recent attempt to fetch the keys failed".into(),
        was_sent: false,
    }
}

/// Splits a token in compact serialization into header, signing input, payload and signature.
fn parse_token(token: &str) -> Option<(TokenHeader, &str, Vec<u8>, Vec<u8>)> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (head, payload) = signed.split_once('.')?;
    let head = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
    Some((head, signed, URL_SAFE_NO_PAD.decode(payload).ok()?, URL_SAFE_NO_PAD.decode(signature).ok()?))
}

fn unauthenticated(why: &str) -> Error {
    Error::Unauthenticated(why.to_owned())
}

#[expect(clippy::disallowed_methods, reason = "the only use of the system clock; token expiry is wall-clock time")]
fn now() -> SystemTime {
    SystemTime::now()
}
