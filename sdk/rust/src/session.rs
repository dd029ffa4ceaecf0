//! The session of a service's client: its token, and how it gets another when the daemon no longer knows this one.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use http::HeaderValue;
use tokio::{sync::Mutex, time::Instant};

use crate::{Error, client::bearer};

/// A refusal soon after signing in is not cured by signing in: each costs the daemon a password's hash.
const PAUSE: Duration = Duration::from_secs(5);

type SignIn = dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, Error>> + Send>> + Send + Sync;

/// Shared by all clones of a client.
pub(crate) struct Session {
    token: RwLock<HeaderValue>,
    sign_in: Box<SignIn>,
    /// When signing in again last ended; held while somebody does, so that one at a time does.
    renewed: Mutex<Option<Instant>>,
}

impl Session {
    pub(crate) fn new(token: &str, sign_in: Box<SignIn>) -> Result<Session, Error> {
        Ok(Session { token: RwLock::new(bearer(token)?), sign_in, renewed: Mutex::new(None) })
    }

    /// What calls carry as `Authorization`.
    pub(crate) fn token(&self) -> HeaderValue {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another token than the one that was refused; `None` if there is none to be had.
    pub(crate) async fn renew(self: &Arc<Self>, refused: &HeaderValue) -> Option<HeaderValue> {
        let (session, refused) = (Arc::clone(self), refused.clone());
        // On a task of its own: a caller who gives up must not take the sign-in of all others with him.
        tokio::spawn(async move { session.renew_now(&refused).await }).await.ok().flatten()
    }

    async fn renew_now(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let mut renewed = self.renewed.lock().await;
        let token = self.token();
        if token != *refused {
            return Some(token);
        }
        if renewed.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        let signed_in = (self.sign_in)().await.and_then(|token| bearer(&token));
        *renewed = Some(Instant::now());
        match signed_in {
            // The same session stands: what was refused is not the token.
            Ok(same) if same == *refused => None,
            Ok(fresh) => {
                tracing::info!("signed in again: the daemon no longer knew the session");
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
