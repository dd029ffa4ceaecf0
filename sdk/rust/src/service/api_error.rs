//! Error responses of a service, in the platform's format.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

use crate::Error;

/// An error response: a status and `{"error": "message"}`. The error type of handlers.
///
/// ```
/// use openorch_sdk::service::{Caller, Platform, ApiError, axum::http::StatusCode};
///
/// async fn edit(platform: Platform, caller: Caller) -> Result<&'static str, ApiError> {
///     platform.require(&caller, "skeleton-svc:thing:edit").await?;
///     Err(ApiError::new(StatusCode::NOT_FOUND, "there is no such thing; list them with GET /skeleton-svc/things"))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// An error response with this status. The message should name the problem and the remedy.
    ///
    /// ```
    /// # use openorch_sdk::service::{ApiError, axum::http::StatusCode};
    /// let error = ApiError::new(StatusCode::CONFLICT, "`a` is still running; stop it first");
    /// ```
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> ApiError {
        ApiError { status, message: sentence.into() }
    }

    /// The HTTP status.
    ///
    /// ```
    /// # use openorch_sdk::service::{ApiError, axum::http::StatusCode};
    /// let no_token = openorch_sdk::Error::Unauthenticated("no token was sent".into());
    /// assert_eq!(ApiError::from(no_token).status(), StatusCode::UNAUTHORIZED);
    /// ```
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// Maps an SDK error to a response. Authentication and permission errors are returned to the caller; all others are
/// logged and returned without details.
impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        match error {
            Error::Unauthenticated(sentence) => ApiError::new(StatusCode::UNAUTHORIZED, sentence),
            Error::Forbidden(sentence) => ApiError::new(StatusCode::FORBIDDEN, sentence),
            #[cfg(feature = "datastore")]
            Error::Datastore(error) => from_store_error(error),
            error if error.is_temporary() => {
                tracing::warn!("transient error: {error}");
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the platform does not respond; try again in a moment")
            }
            error => {
                tracing::error!("{error}");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error in this service; see its log")
            }
        }
    }
}

/// Maps a datastore error. Errors caused by the request are returned to the caller; others are logged.
#[cfg(feature = "datastore")]
fn from_store_error(error: openorch_store::StoreError) -> ApiError {
    use openorch_store::StoreError::{
        AlreadyExists, Conflict, Corrupt, InUse, Internal, Invalid, NotFound, Replaced, StorageFull, TimedOut,
        TooLarge, Unavailable,
    };
    match error {
        NotFound(sentence) => ApiError::new(StatusCode::NOT_FOUND, sentence),
        AlreadyExists(sentence) | Conflict(sentence) => ApiError::new(StatusCode::CONFLICT, sentence),
        Invalid(sentence) => ApiError::new(StatusCode::BAD_REQUEST, sentence),
        TooLarge(sentence) => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, sentence),
        StorageFull(reason) => {
            tracing::error!("the datastore is full: {reason}");
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "the storage is full; reads still work")
        }
        Replaced(reason) => {
            tracing::error!("the datastore is read-only: {reason}");
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the storage is read-only; an operator must check this service's log",
            )
        }
        TimedOut(reason) | Unavailable(reason) => {
            tracing::warn!("transient datastore error: {reason}");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the storage is unavailable; try again in a moment")
        }
        Corrupt(reason) | InUse(reason) | Internal(reason) => {
            tracing::error!("datastore error: {reason}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error in this service; see its log")
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut answer = (self.status, Json(serde_json::json!({ "error": self.message }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}
