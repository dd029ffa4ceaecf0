//! A service's account: made at its first start, signed in to at every other.

use std::time::{Duration, Instant};

use openorch_api::{
    Body, Json,
    user::{LOGIN, LoginRequest, REGISTER, RegisterRequest},
};

use crate::{Client, Credential, CredentialStore, Error};

/// How long a service waits for a daemon that is away: long enough for both to be started at once.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Signs the service in, registering its account at the first start, and answers the token to call with.
///
/// The password is made here and kept in `store` before the server hears of it, so that a crash in between locks nobody
/// out. While the daemon is away this tries again, for a minute. A stored slug wins over the one given.
pub async fn register_service_account(
    client: &Client,
    slug: &str,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    register_service_account_within(PATIENCE, client, slug, name, store).await
}

/// [`register_service_account`] with another limit to its patience.
pub async fn register_service_account_within(
    patience: Duration,
    client: &Client,
    slug: &str,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    let credential = match store.load().await? {
        Some(credential) => credential,
        None => store.keep(Credential::random(slug)?).await?,
    };
    let (started, mut wait) = (Instant::now(), FIRST_WAIT);
    loop {
        match sign_in_or_register(client, &credential, name, store).await {
            Err(error) if error.is_temporary() && started.elapsed() + wait < patience => {
                tracing::warn!(account.slug = %credential.slug, "signing in `{}` waits: {error}", credential.slug);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            settled => return settled,
        }
    }
}

async fn sign_in_or_register(
    client: &Client,
    credential: &Credential,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    match sign_in(client, credential).await {
        // The one refusal that means "no such account"; any other 400 is a fault that registering would hide.
        Err(Error::Refused { status: 400, message, .. }) if message == "Slug not found" => {}
        Err(refusal) if refusal.status() == Some(401) => return Err(explain_wrong_password(credential, store)),
        settled => return settled,
    }
    match register(client, credential, name).await {
        // Another copy of the service, with the same credential, registered in between.
        Err(refusal) if refusal.status() == Some(409) => match sign_in(client, credential).await {
            Err(refusal) if refusal.status() == Some(401) => Err(explain_wrong_password(credential, store)),
            settled => settled,
        },
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
        slug: Some(credential.slug.clone()),
        password: Some(credential.password.clone()),
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
