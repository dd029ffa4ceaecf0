//! The account of a service: registered on its first start, signed in to on every later one.

use std::{sync::Arc, time::Duration};

use openorch_api::{
    Body, Json,
    user::{LOGIN, LoginRequest, REGISTER, RegisterRequest, errors},
};

use crate::{Client, Credential, CredentialStore, Error, retry::retry_until, session::Session};

/// How long a starting service retries while the daemon is unavailable, so that both can be started at the same time.
pub(crate) const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout of one sign-in attempt. Hashing a password takes well under a second.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10);

/// Signs the service in, registering its account on the first start, and returns the session token.
///
/// The password is generated here and saved in `store` before it is sent to the daemon, so that a crash in between does
/// not lock the service out. While the daemon is unavailable, this retries for one minute. If `store` contains a
/// credential, its slug takes precedence over `slug`.
///
/// Fails with [`Error::Credential`] if the credential cannot be read or saved, or does not belong to the account.
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
    register_service_account_with_timeout(STARTUP_TIMEOUT, client, slug, name, store).await
}

/// [`register_service_account`] with a custom limit for retries.
///
/// ```no_run
/// # use openorch_sdk::{Client, Error, MemoryCredentialStore, register_service_account_with_timeout};
/// # async fn example(client: &Client) -> Result<(), Error> {
/// let (store, no_retries) = (MemoryCredentialStore::default(), std::time::Duration::ZERO);
/// let token = register_service_account_with_timeout(no_retries, client, "a-svc", "A", &store).await?;
/// # Ok(())
/// # }
/// ```
pub async fn register_service_account_with_timeout(
    patience: Duration,
    client: &Client,
    slug: &str,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    let credential = load_or_create_credential(slug, store).await?;
    let what = sign_in_action(&credential.slug);
    let client = &client.clone().with_default_timeout(SIGN_IN_TIMEOUT);
    retry_until(patience, &what, || sign_in_or_register(client, &credential, name, store)).await
}

/// A client that calls as the service: signed in as by [`register_service_account`], and signed in again whenever its
/// session has ended.
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
    Ok(sign_in_service(STARTUP_TIMEOUT, client, slug, name, store).await?.0)
}

/// Signs in; returns the client of the service and the slug of its account.
pub(crate) async fn sign_in_service(
    patience: Duration,
    client: &Client,
    slug: &str,
    name: &str,
    store: impl CredentialStore + 'static,
) -> Result<(Client, String), Error> {
    let credential = load_or_create_credential(slug, &store).await?;
    let slug = credential.slug.clone();
    let service = Arc::new((
        client.clone().without_token().with_default_timeout(SIGN_IN_TIMEOUT),
        credential,
        name.to_owned(),
        store,
    ));
    let sign_in = move || {
        let service = Arc::clone(&service);
        async move {
            let (client, credential, name, store) = &*service;
            sign_in_or_register(client, credential, name, store).await
        }
    };
    let token = retry_until(patience, &sign_in_action(&slug), &sign_in).await?;
    Ok((client.clone().with_session(Session::new(&token, Box::new(move || Box::pin(sign_in())))?), slug))
}

fn sign_in_action(slug: &str) -> String {
    format!("signing in as `{slug}`")
}

/// The stored credential, or a new one, which is stored.
async fn load_or_create_credential(slug: &str, store: &impl CredentialStore) -> Result<Credential, Error> {
    match store.load().await? {
        Some(credential) => Ok(credential),
        None => store.get_or_insert(Credential::random(slug)?).await,
    }
}

async fn sign_in_or_register(
    client: &Client,
    credential: &Credential,
    name: &str,
    store: &impl CredentialStore,
) -> Result<String, Error> {
    match sign_in(client, credential).await {
        // Any other error must be reported; registering would hide it.
        Err(refusal) if refusal.is(&errors::SLUG_NOT_FOUND) => {}
        Err(refusal) if refusal.is(&errors::WRONG_PASSWORD) => return Err(wrong_password_error(credential, store)),
        settled => return settled,
    }
    match register(client, credential, name).await {
        // Another process of the service, with the same credential, registered concurrently.
        Err(refusal) if refusal.is(&errors::SLUG_TAKEN) || refusal.is(&errors::ACCOUNT_EXISTS) => {
            match sign_in(client, credential).await {
                Err(refusal) if refusal.is(&errors::WRONG_PASSWORD) => Err(wrong_password_error(credential, store)),
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
    require_token("login", answer.token.token)
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
        // This daemon registers without signing in.
        token if token.is_empty() => sign_in(client, credential).await,
        token => Ok(token),
    }
}

fn require_token(operation: &'static str, token: String) -> Result<String, Error> {
    if token.is_empty() {
        let reason = "the response contains no token".into();
        return Err(Error::Unexpected { operation: operation.into(), status: 200, reason, request_id: None });
    }
    Ok(token)
}

fn wrong_password_error(credential: &Credential, store: &impl CredentialStore) -> Error {
    Error::Credential(format!(
        "the password in {1} is not that of account `{0}`; restore the credential, or have an admin reset the \
         account's password to it",
        credential.slug,
        store.location()
    ))
}
