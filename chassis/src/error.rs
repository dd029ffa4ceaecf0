//! The error type of services: a declared code for programs, and a message for people that names the thing and the remedy.

use std::{borrow::Cow, error, fmt};

use http::StatusCode;
use openorch_api::{
    ErrorCode,
    error::{platform, request},
};
use openorch_store::StoreError;

/// An error returned to the caller. `message` is shown; `cause` never is: it is logged once, at the boundary.
pub struct Error {
    /// Identifies the error for programs and has the HTTP status of the response (decision "Refusals").
    pub code: &'static ErrorCode,
    /// Says in a sentence what is wrong and what to do; shown to the caller.
    pub message: Cow<'static, str>,
    /// The underlying error, for the log.
    pub cause: Option<Box<dyn error::Error + Send + Sync>>,
    /// Seconds to wait before a retry, where known.
    pub retry_after: Option<i64>,
}

/// A result with [`Error`] as the default error type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this code. `message` is truncated to [`MAX_MESSAGE`](Error::MAX_MESSAGE) bytes: some messages quote the
    /// caller's input, and error messages are not counted in any memory budget.
    pub fn new(code: &'static ErrorCode, message: impl Into<Cow<'static, str>>) -> Error {
        let mut message = message.into();
        if message.len() > Error::MAX_MESSAGE {
            let end = message.floor_char_boundary(Error::MAX_MESSAGE);
            message = format!("{}…", &message[..end]).into();
        }
        Error { code, message, cause: None, retry_after: None }
    }

    /// Maximum bytes of a message, not counting the ellipsis of a truncated one.
    pub const MAX_MESSAGE: usize = 1024;

    /// Well-formed input with an unusable value, where programs need no more specific code.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(&request::UNUSABLE_VALUE, message)
    }

    /// An internal error: the caller sees a fixed message, to which the router adds the request id; the cause is logged under
    /// that id.
    pub fn internal(cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
        let message = "internal error; the daemon's log has the reason under the request id";
        Error::new(&platform::INTERNAL, message).with_cause(cause)
    }

    /// The HTTP status of the response.
    pub fn status(&self) -> StatusCode {
        // A test checks that every code has a valid status.
        StatusCode::from_u16(self.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the store rejected a batch because of a concurrent write, so that reading again and retrying may succeed. A
    /// missing document counts: it existed when it was read.
    pub fn is_write_conflict(&self) -> bool {
        let cause = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<StoreError>());
        matches!(cause, Some(StoreError::Conflict(_) | StoreError::AlreadyExists(_) | StoreError::NotFound(_)))
    }

    /// Whether the store is unavailable or its disk is full, so that an operator must act.
    pub fn is_store_unavailable(&self) -> bool {
        let cause = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<StoreError>());
        matches!(cause, Some(StoreError::Unavailable(_) | StoreError::Replaced(_) | StoreError::StorageFull(_)))
    }

    /// Sets the seconds to wait before a retry, for programs; the message states them for people.
    pub fn with_retry_after(mut self, seconds: i64) -> Error {
        self.retry_after = Some(seconds);
        self
    }

    /// Sets the underlying error, which is logged.
    pub fn with_cause(mut self, cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
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
                "the daemon's disk is full: nothing was changed and reads still work; an operator must free space"
                    .into()
            }
            StoreError::Unavailable(_) => "the store does not answer; try again in a moment".into(),
            _ => error.to_string(),
        };
        Error::new(code, message).with_cause(error)
    }
}
