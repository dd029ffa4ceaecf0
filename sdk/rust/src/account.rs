//! A service's account: made at its first start, signed in to at every other.

use std::{sync::Arc, time::Duration};

use openorch_api::{
    Body, Json,
    user::{LOGIN, LoginRequest, REGISTER, RegisterRequest, errors},
};

use crate::{Client, Credential, CredentialStore, Error, retry::patiently, session::Session};

/// How long a service waits for a daemon that is away: long enough for both to be started at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One attempt at it: a password's hash takes a moment, and no more.
const TIME_OUT: Duration = Duration::from_secs(10);

/// Signs the service in, registering its account at the first start, and answers the token to call with.
///
/// The password is made here and kept in `store` before the server hears of it, so that a crash in between locks nobody
/// out. While the daemon is away this tries again, for a minute. A stored slug wins over the one given.
///
/// Fails with [`Error::Credential`] where the credential cannot be read or kept, or is not the account's.
///
/// ```no_run
/// use openorch_sdk::{ClientFactory, Error, FileCredentialStore, register_service_account};
///
/// # async fn example() -> Result<(), Error> {
/// let client = ClientFactory::new("http://127.0.0.1:58231")?.client();
/// let store = FileCredentialStore::in_home("skeleton-svc")?;
/// let token = register_service_account(&client, "skeleton-svc", "Skeleton Svc", &store).await?;
/// let client = client.with_token(&token)?;
/// # Ok(())
/// # }
/// ```
pub async fn register_service_account(
    client: &Client,
    slug: &str,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    register_service_account_within(PATIENCE, client, slug, name, store).await
}

/// [`register_service_account`] with another limit to its patience.
///
/// ```no_run
/// # use openorch_sdk::{Client, Error, MemoryCredentialStore, register_service_account_within};
/// # async fn example(client: &Client) -> Result<(), Error> {
/// let (store, at_once) = (MemoryCredentialStore::default(), std::time::Duration::ZERO);
/// let token = register_service_account_within(at_once, client, "a-svc", "A", &store).await?;
/// # Ok(())
/// # }
/// ```
pub async fn register_service_account_within(
    patience: Duration,
    client: &Client,
    slug: &str,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    let credential = credential(slug, store).await?;
    let what = signing_in(&credential.slug);
    let client = &client.clone().or_time_out(TIME_OUT);
    patiently(patience, &what, || sign_in_or_register(client, &credential, name, store)).await
}

/// The client that a service calls with: signed in like by [`register_service_account`], and signed in again whenever the
/// daemon no longer knows its session.
///
/// ```no_run
/// use openorch_sdk::{ClientFactory, Error, FileCredentialStore, service_client};
///
/// # async fn example() -> Result<(), Error> {
/// let client = ClientFactory::new("http://127.0.0.1:58231")?.client();
/// let store = FileCredentialStore::in_home("skeleton-svc")?;
/// let client = service_client(&client, "skeleton-svc", "Skeleton Svc", store).await?;
/// # Ok(())
/// # }
/// ```
pub async fn service_client(
    client: &Client,
    slug: &str,
    name: &str,
    store: impl CredentialStore + 'static,
) -> Result<Client, Error> {
    Ok(sign_in_service(PATIENCE, client, slug, name, store).await?.0)
}

/// The client of a service and the slug that its account has.
pub(crate) async fn sign_in_service(
    patience: Duration,
    client: &Client,
    slug: &str,
    name: &str,
    store: impl CredentialStore + 'static,
) -> Result<(Client, String), Error> {
    let credential = credential(slug, &store).await?;
    let slug = credential.slug.clone();
    let service = Arc::new((client.clone().without_token().or_time_out(TIME_OUT), credential, name.to_owned(), store));
    let sign_in = move || {
        let service = Arc::clone(&service);
        async move {
            let (client, credential, name, store) = &*service;
            sign_in_or_register(client, credential, name, store).await
        }
    };
    let token = patiently(patience, &signing_in(&slug), &sign_in).await?;
    Ok((client.clone().with_session(Session::new(&token, Box::new(move || Box::pin(sign_in())))?), slug))
}

fn signing_in(slug: &str) -> String {
    format!("signing in `{slug}`")
}

/// The credential that is kept, or a fresh one that is from now on.
async fn credential(slug: &str, store: &impl CredentialStore) -> Result<Credential, Error> {
    match store.load().await? {
        Some(credential) => Ok(credential),
        None => store.keep(Credential::random(slug)?).await,
    }
}

async fn sign_in_or_register(
    client: &Client,
    credential: &Credential,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    match sign_in(client, credential).await {
        // Any other refusal is a fault that registering would hide.
        Err(refusal) if refusal.is(&errors::SLUG_NOT_FOUND) => {}
        Err(refusal) if refusal.is(&errors::WRONG_PASSWORD) => return Err(explain_wrong_password(credential, store)),
        settled => return settled,
    }
    match register(client, credential, name).await {
        // Another copy of the service, with the same credential, registered in between.
        Err(refusal) if refusal.is(&errors::SLUG_TAKEN) || refusal.is(&errors::ACCOUNT_EXISTS) => {
            match sign_in(client, credential).await {
                Err(refusal) if refusal.is(&errors::WRONG_PASSWORD) => Err(explain_wrong_password(credential, store)),
                settled => settled,
            }
        }
        settled => settled,
    }
}

async fn sign_in(client: &Client, credential: &Credential) -> Result<String, Error> {
    let input = LoginRequest {
        slug: Some(credential.slug.clone()),
        password: Some(credential.password.clone()),
        ..LoginRequest::default()
    };
    let Json(answer) = client.call(LOGIN, Body(input)).await?;
    token_of("login", answer.token.token)
}

async fn register(client: &Client, credential: &Credential, name: &str) -> Result<String, Error> {
    let input = RegisterRequest {
        name: Some(name.to_owned()),
        slug: credential.slug.clone(),
        password: credential.password.clone(),
        ..RegisterRequest::default()
    };
    let Json(answer) = client.call(REGISTER, Body(input)).await?;
    match answer.token.token {
        // A daemon that registers without signing in.
        token if token.is_empty() => sign_in(client, credential).await,
        token => Ok(token),
    }
}

fn token_of(operation: &'static str, token: String) -> Result<String, Error> {
    if token.is_empty() {
        let reason = "it carries no token".into();
        return Err(Error::Unexpected { operation: operation.into(), status: 200, reason, request_id: None });
    }
    Ok(token)
}

fn explain_wrong_password(credential: &Credential, store: &impl CredentialStore) -> Error {
    Error::Credential(format!(
        "the account `{}` has another password than the one in {}; put back the right credential, or have an admin \
         reset the account's password to the one that stands there",
        credential.slug,
        store.place()
    ))
}
