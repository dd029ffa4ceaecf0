//! What a handler has of the platform: the service's own client, who calls, and what the caller may.

use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use http::{StatusCode, header, request::Parts};

use crate::{Client, Error};

use super::{Caller, Guard, Refusal, TokenCheck};

/// The platform as a service sees it. An extractor: a handler that names it gets it. Cheap to clone.
///
/// ```
/// use openorch_sdk::{api::{Json, Query, registry::{LIST_INSTANCES, ListInstancesRequest}}, service::{Platform, Refusal}};
///
/// async fn count_instances(platform: Platform) -> Result<String, Refusal> {
///     let Json(list) = platform.client().call(LIST_INSTANCES, Query(ListInstancesRequest::default())).await?;
///     Ok(list.instances.len().to_string())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Platform {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    slug: String,
    client: Client,
    check: TokenCheck,
    guard: Guard,
}

impl Platform {
    /// For a service that is signed in: `slug` is its account's, `client` as [`service_client`](crate::service_client)
    /// makes it. A [`Service`](super::Service) does this by itself.
    ///
    /// ```
    /// use openorch_sdk::{ClientFactory, service::Platform};
    /// let client = ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// let platform = Platform::new("skeleton-svc", client);
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn new(slug: &str, client: Client) -> Platform {
        let (check, guard) = (TokenCheck::new(client.clone(), slug), Guard::new(client.clone()));
        Platform { inner: Arc::new(Inner { slug: slug.to_owned(), client, check, guard }) }
    }

    /// The slug of the service.
    ///
    /// ```
    /// # use openorch_sdk::service::Platform;
    /// async fn name(platform: Platform) -> String {
    ///     platform.slug().to_owned()
    /// }
    /// ```
    pub fn slug(&self) -> &str {
        &self.inner.slug
    }

    /// A client that calls as the service.
    ///
    /// ```
    /// # use openorch_sdk::{Client, service::Platform};
    /// fn patient(platform: &Platform) -> Client {
    ///     platform.client().clone().with_time_out(std::time::Duration::from_secs(30))
    /// }
    /// ```
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// A client that calls as the caller, as far as a token made for this service opens doors.
    ///
    /// ```
    /// use openorch_sdk::{api::{Json, user::READ_USER_BY_TOKEN}, service::{Caller, Platform, Refusal}};
    ///
    /// async fn name(platform: Platform, caller: Caller) -> Result<String, Refusal> {
    ///     let Json(answer) = platform.client_of(&caller)?.call(READ_USER_BY_TOKEN, ()).await?;
    ///     Ok(answer.user.name)
    /// }
    /// ```
    pub fn client_of(&self, caller: &Caller) -> Result<Client, Error> {
        self.inner.client.clone().with_token(caller.token())
    }

    /// The check of callers' tokens. [`Caller`] as an extractor uses it.
    ///
    /// ```
    /// # use openorch_sdk::service::{Platform, TokenCheck};
    /// fn check(platform: &Platform) -> TokenCheck {
    ///     platform.token_check().clone()
    /// }
    /// ```
    pub fn token_check(&self) -> &TokenCheck {
        &self.inner.check
    }

    /// The guard that asks for permissions.
    ///
    /// ```
    /// use openorch_sdk::service::{Caller, Platform, Refusal};
    ///
    /// async fn show(platform: Platform, caller: Caller) -> Result<&'static str, Refusal> {
    ///     let all = platform.guard().allows(&caller, "skeleton-svc:thing:view").await?;
    ///     Ok(if all { "everything" } else { "your own" })
    /// }
    /// ```
    pub fn guard(&self) -> &Guard {
        &self.inner.guard
    }

    /// [`Error::Forbidden`] unless the caller has the permission: [`Guard::require`].
    ///
    /// ```
    /// use openorch_sdk::service::{Caller, Platform, Refusal};
    ///
    /// async fn edit(platform: Platform, caller: Caller) -> Result<(), Refusal> {
    ///     platform.require(&caller, "skeleton-svc:thing:edit").await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn require(&self, caller: &Caller, permission: &str) -> Result<(), Error> {
        self.inner.guard.require(caller, permission).await
    }
}

impl<S: Sync> FromRequestParts<S> for Platform {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Platform, Refusal> {
        parts.extensions.get::<Platform>().cloned().ok_or_else(|| {
            tracing::error!("a handler that asks for the platform runs outside a `Service`");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "something is wrong in this service; its log says what")
        })
    }
}

/// Who calls; whoever does not say so is refused with 401.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Caller, Refusal> {
        // Whoever needed the caller before has checked.
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(caller.clone());
        }
        let platform = <Platform as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let caller = platform.token_check().caller(&parts.headers).await?;
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

/// Who calls, if the request says so; a token that is not good is refused all the same.
impl<S: Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Caller>, Refusal> {
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        <Caller as FromRequestParts<S>>::from_request_parts(parts, state).await.map(Some)
    }
}
