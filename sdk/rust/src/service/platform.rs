//! The platform as seen by a handler: the service's client, the caller, and permission checks.

use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use http::{StatusCode, header, request::Parts};

use super::{ApiError, Caller, PermissionGuard, TokenVerifier};
use crate::{Client, Error};

/// Access to the platform for handlers. An axum extractor. Cheap to clone.
///
/// ```
/// use openorch_sdk::{api::{Json, Query, registry::{LIST_INSTANCES, ListInstancesRequest}}, service::{Platform, ApiError}};
///
/// async fn count_instances(platform: Platform) -> Result<String, ApiError> {
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
    check: TokenVerifier,
    guard: PermissionGuard,
}

impl Platform {
    /// For a service that is signed in: `slug` of its account, `client` from [`service_client`](crate::service_client). A
    /// [`Service`](super::Service) creates it automatically.
    ///
    /// ```
    /// use openorch_sdk::{ClientFactory, service::Platform};
    /// let client = ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// let platform = Platform::new("skeleton-svc", client);
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn new(slug: &str, client: Client) -> Platform {
        let (check, guard) = (TokenVerifier::new(client.clone(), slug), PermissionGuard::new(client.clone()));
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
    ///     platform.client().clone().with_timeout(std::time::Duration::from_secs(30))
    /// }
    /// ```
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// A client that calls as the caller, with the delegated token: only operations that are allowed for this service.
    ///
    /// ```
    /// use openorch_sdk::{api::{Json, user::READ_USER_BY_TOKEN}, service::{Caller, Platform, ApiError}};
    ///
    /// async fn name(platform: Platform, caller: Caller) -> Result<String, ApiError> {
    ///     let Json(answer) = platform.client_of(&caller)?.call(READ_USER_BY_TOKEN, ()).await?;
    ///     Ok(answer.user.name)
    /// }
    /// ```
    pub fn client_of(&self, caller: &Caller) -> Result<Client, Error> {
        self.inner.client.clone().with_token(caller.token())
    }

    /// The verifier of callers' tokens, which the extractor [`Caller`] uses.
    ///
    /// ```
    /// # use openorch_sdk::service::{Platform, TokenVerifier};
    /// fn verifier(platform: &Platform) -> TokenVerifier {
    ///     platform.token_verifier().clone()
    /// }
    /// ```
    pub fn token_verifier(&self) -> &TokenVerifier {
        &self.inner.check
    }

    /// The guard that checks permissions.
    ///
    /// ```
    /// use openorch_sdk::service::{Caller, Platform, ApiError};
    ///
    /// async fn show(platform: Platform, caller: Caller) -> Result<&'static str, ApiError> {
    ///     let all = platform.guard().allows(&caller, "skeleton-svc:thing:view").await?;
    ///     Ok(if all { "everything" } else { "your own" })
    /// }
    /// ```
    pub fn guard(&self) -> &PermissionGuard {
        &self.inner.guard
    }

    /// Fails with [`Error::Forbidden`] unless the caller has the permission: [`PermissionGuard::require`].
    ///
    /// ```
    /// use openorch_sdk::service::{Caller, Platform, ApiError};
    ///
    /// async fn edit(platform: Platform, caller: Caller) -> Result<(), ApiError> {
    ///     platform.require(&caller, "skeleton-svc:thing:edit").await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn require(&self, caller: &Caller, permission: &str) -> Result<(), Error> {
        self.inner.guard.require(caller, permission).await
    }
}

impl<S: Sync> FromRequestParts<S> for Platform {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Platform, ApiError> {
        parts.extensions.get::<Platform>().cloned().ok_or_else(|| {
            tracing::error!("the extractor `Platform` was used outside a `Service`");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error in this service; see its log")
        })
    }
}

/// Extracts the caller; responds with 401 if the request has no valid token.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Caller, ApiError> {
        // Already verified by an earlier extractor or the permission check.
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(caller.clone());
        }
        let platform = <Platform as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let caller = platform.token_verifier().authenticate(&parts.headers).await?;
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

/// Extracts the caller, if the request has a token. An invalid token is still rejected with 401.
impl<S: Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Caller>, ApiError> {
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        <Caller as FromRequestParts<S>>::from_request_parts(parts, state).await.map(Some)
    }
}
