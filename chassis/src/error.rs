//! The error type of services: a declared code for programs, and a sentence that names the thing and the remedy.

use std::{borrow::Cow, error, fmt};

use http::StatusCode;
use openorch_api::{
    ErrorCode,
    error::{platform, request},
};
use openorch_store::StoreError;

/// A failure on its way to the caller. `message` is shown; `cause` never is: it is logged once, at the boundary.
pub struct Error {
    /// What programs tell it by; its status is that of the answer (decision "Refusals").
    pub code: &'static ErrorCode,
    pub message: Cow<'static, str>,
    pub cause: Option<Box<dyn error::Error + Send + Sync>>,
    /// Seconds after which another try may help, where they are known.
    pub retry_after: Option<i64>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal with this code; `message` is the sentence for the person who reads it, cut after
    /// [`MAX_SENTENCE`](Error::MAX_SENTENCE) bytes: some repeat what the caller sent, which counts in no budget there.
    pub fn new(code: &'static ErrorCode, message: impl Into<Cow<'static, str>>) -> Error {
        let mut message = message.into();
        if message.len() > Error::MAX_SENTENCE {
            let end = message.floor_char_boundary(Error::MAX_SENTENCE);
            message = format!("{}…", &message[..end]).into();
        }
        Error { code, message, cause: None, retry_after: None }
    }

    /// Bytes of a sentence, before what it ends with where it is cut.
    pub const MAX_SENTENCE: usize = 1024;

    /// Input of the declared form that cannot be used, where programs need not know more.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(&request::UNUSABLE_VALUE, message)
    }

    /// A fault of ours: the caller sees a fixed sentence, to which the router adds the request's id; the log has the
    /// cause under that id.
    pub fn internal(cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
        let message = "something went wrong on our side; the log has the reason under the request's id";
        Error::new(&platform::INTERNAL, message).because(cause)
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        // Codes have valid ones, as a test of the table shows.
        StatusCode::from_u16(self.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the store refused a batch because another writer came first: reading again and trying again may help. Also
    /// where what was to be changed is not there any more: it was, when it was read.
    pub fn is_lost_race(&self) -> bool {
        let cause = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<StoreError>());
        matches!(cause, Some(StoreError::Conflict(_) | StoreError::AlreadyExists(_) | StoreError::NotFound(_)))
    }

    /// Whether an operator must do something, since the store does not answer or its disk is full.
    pub fn is_of_store(&self) -> bool {
        let cause = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<StoreError>());
        matches!(cause, Some(StoreError::Unavailable(_) | StoreError::Replaced(_) | StoreError::StorageFull(_)))
    }

    /// Says when to try again, for programs: the sentence says it for people.
    pub fn after(mut self, seconds: i64) -> Error {
        self.retry_after = Some(seconds);
        self
    }

    pub fn because(mut self, cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
        self.cause = Some(cause.into());
        self
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.id, self.message)?;
        match &self.cause {
            Some(cause) => write!(f, " (because: {cause})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for Error {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let code = match error {
            StoreError::NotFound(_) => &platform::NOT_FOUND,
            StoreError::AlreadyExists(_) | StoreError::Conflict(_) => &platform::CONFLICT,
            StoreError::Invalid(_) => &request::UNUSABLE_VALUE,
            StoreError::TooLarge(_) => &request::DOCUMENT_TOO_LARGE,
            StoreError::TimedOut(_) => &platform::STORE_TIMED_OUT,
            StoreError::StorageFull(_) => &platform::STORAGE_FULL,
            StoreError::Unavailable(_) => &platform::STORE_UNAVAILABLE,
            StoreError::Replaced(_) => &platform::STORE_REPLACED,
            _ => return Error::internal(error),
        };
        let message = match error {
            StoreError::StorageFull(_) => {
                "the disk of the daemon is full: nothing was changed, reading goes on; an operator must free space"
                    .into()
            }
            StoreError::Unavailable(_) => "the store does not answer; try again in a moment".into(),
            _ => error.to_string(),
        };
        Error::new(code, message).because(error)
    }
}
