//! What a service answers when it says no: a status and a sentence, in the platform's form.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

use crate::Error;

/// A refusal: `{"error": "sentence"}`. What handlers fail with.
///
/// ```
/// use openorch_sdk::service::{Caller, Platform, Refusal, axum::http::StatusCode};
///
/// async fn edit(platform: Platform, caller: Caller) -> Result<&'static str, Refusal> {
///     platform.require(&caller, "skeleton-svc:thing:edit").await?;
///     Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such thing; list them with GET /skeleton-svc/things"))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    sentence: String,
}

impl Refusal {
    /// Says no with this status. The sentence should name the thing and the way out.
    ///
    /// ```
    /// # use openorch_sdk::service::{Refusal, axum::http::StatusCode};
    /// let refusal = Refusal::new(StatusCode::CONFLICT, "`a` is still running; stop it first");
    /// ```
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> Refusal {
        Refusal { status, sentence: sentence.into() }
    }

    /// The status that is answered.
    ///
    /// ```
    /// # use openorch_sdk::service::{Refusal, axum::http::StatusCode};
    /// let no_token = openorch_sdk::Error::Unauthenticated("no token came with the request".into());
    /// assert_eq!(Refusal::from(no_token).status(), StatusCode::UNAUTHORIZED);
    /// ```
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// What a failed call means for the caller of the service: who he is and what he may is told to him, all else is the
/// service's trouble, told in the log alone.
impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        match error {
            Error::Unauthenticated(sentence) => Refusal::new(StatusCode::UNAUTHORIZED, sentence),
            Error::Forbidden(sentence) => Refusal::new(StatusCode::FORBIDDEN, sentence),
            #[cfg(feature = "datastore")]
            Error::Datastore(error) => of_datastore(error),
            error if error.is_temporary() => {
                tracing::warn!("a call failed for now: {error}");
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the platform does not answer; try again in a moment")
            }
            error => {
                tracing::error!("a call failed: {error}");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "something is wrong in this service; its log says what")
            }
        }
    }
}

/// Sentences of a store are for whoever asked, but for those about its own troubles.
#[cfg(feature = "datastore")]
fn of_datastore(error: openorch_store::StoreError) -> Refusal {
    use openorch_store::StoreError::{
        AlreadyExists, Conflict, Corrupt, InUse, Internal, Invalid, NotFound, Replaced, StorageFull, TimedOut,
        TooLarge, Unavailable,
    };
    match error {
        NotFound(sentence) => Refusal::new(StatusCode::NOT_FOUND, sentence),
        AlreadyExists(sentence) | Conflict(sentence) => Refusal::new(StatusCode::CONFLICT, sentence),
        Invalid(sentence) => Refusal::new(StatusCode::BAD_REQUEST, sentence),
        TooLarge(sentence) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence),
        StorageFull(reason) => {
            tracing::error!("the datastore is full: {reason}");
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "there is no room to store more; reading goes on")
        }
        Replaced(reason) => {
            tracing::error!("the datastore takes no more writes: {reason}");
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "nothing can be stored now, reading goes on; an operator must look at this service's log",
            )
        }
        TimedOut(reason) | Unavailable(reason) => {
            tracing::warn!("the datastore failed for now: {reason}");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the data cannot be reached; try again in a moment")
        }
        Corrupt(reason) | InUse(reason) | Internal(reason) => {
            tracing::error!("the datastore failed: {reason}");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "something is wrong in this service; its log says what")
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut answer = (self.status, Json(serde_json::json!({ "error": self.sentence }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}
