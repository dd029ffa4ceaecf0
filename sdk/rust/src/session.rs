//! The session of a service's client: its token, and signing in again when the daemon no longer accepts it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use http::HeaderValue;
use tokio::{sync::Mutex, time::Instant};

use crate::{Error, client::bearer};

/// Minimum interval between sign-ins. A token rejected right after a sign-in would be rejected again, and each sign-in
/// costs the daemon a password hash.
const MIN_SIGN_IN_INTERVAL: Duration = Duration::from_secs(5);

type SignIn = dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, Error>> + Send>> + Send + Sync;

/// Shared by all clones of a client.
pub(crate) struct Session {
    token: RwLock<HeaderValue>,
    sign_in: Box<SignIn>,
    /// When the last sign-in ended. Locked during a sign-in, so that only one runs at a time.
    last_sign_in: Mutex<Option<Instant>>,
}

impl Session {
    pub(crate) fn new(token: &str, sign_in: Box<SignIn>) -> Result<Session, Error> {
        Ok(Session { token: RwLock::new(bearer(token)?), sign_in, last_sign_in: Mutex::new(None) })
    }

    /// The `Authorization` header value.
    pub(crate) fn token(&self) -> HeaderValue {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new token to replace the rejected one; `None` if signing in does not help.
    pub(crate) async fn sign_in_again(self: &Arc<Self>, refused: &HeaderValue) -> Option<HeaderValue> {
        let (session, refused) = (Arc::clone(self), refused.clone());
        // In a separate task, so that a cancelled caller does not cancel the sign-in that others wait for.
        tokio::spawn(async move { session.sign_in_if_due(&refused).await }).await.ok().flatten()
    }

    async fn sign_in_if_due(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let mut renewed = self.last_sign_in.lock().await;
        let token = self.token();
        if token != *refused {
            return Some(token);
        }
        if renewed.is_some_and(|at| at.elapsed() < MIN_SIGN_IN_INTERVAL) {
            return None;
        }
        let signed_in = (self.sign_in)().await.and_then(|token| bearer(&token));
        *renewed = Some(Instant::now());
        match signed_in {
            // The session is unchanged, so the rejection has another reason than the token.
            Ok(same) if same == *refused => None,
            Ok(fresh) => {
                tracing::info!("signed in again: the session had ended");
                *self.token.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
                Some(fresh)
            }
            Err(error) => {
                tracing::warn!("the session has ended, and signing in again failed: {error}");
                None
            }
        }
    }
}
