//! What can go wrong, as kinds a caller can act on, each with a sentence that names the thing and the way out.

use std::{borrow::Cow, error, fmt};

use openorch_store::StoreError;

/// The kind of a failure; it decides the HTTP status (contract decision 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Invalid,
    Conflict,
    Unauthenticated,
    Forbidden,
    TooLarge,
    TimedOut,
    Limited,
    StorageFull,
    Unavailable,
    Internal,
}

impl Kind {
    pub fn status(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            Kind::NotFound => S::NOT_FOUND,
            Kind::Invalid => S::BAD_REQUEST,
            Kind::Conflict => S::CONFLICT,
            Kind::Unauthenticated => S::UNAUTHORIZED,
            Kind::Forbidden => S::FORBIDDEN,
            Kind::TooLarge => S::PAYLOAD_TOO_LARGE,
            Kind::TimedOut => S::REQUEST_TIMEOUT,
            Kind::Limited => S::TOO_MANY_REQUESTS,
            Kind::StorageFull => S::INSUFFICIENT_STORAGE,
            Kind::Unavailable => S::SERVICE_UNAVAILABLE,
            Kind::Internal => S::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A failure on its way to the caller. `message` is shown; `cause` never is: it is logged once, at the boundary.
pub struct Error {
    pub kind: Kind,
    pub message: Cow<'static, str>,
    /// What programs tell it by, where they need to: stable, unlike the sentence (contract decision 5).
    pub code: Option<&'static str>,
    pub cause: Option<Box<dyn error::Error + Send + Sync>>,
    /// Seconds after which another try may help, where they are known.
    pub retry_after: Option<i64>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident $kind:ident),* $(,)?) => {
        impl Error {
            $(pub fn $name(message: impl Into<Cow<'static, str>>) -> Error {
                Error { kind: Kind::$kind, message: message.into(), code: None, cause: None, retry_after: None }
            })*
        }
    };
}

constructors! {
    not_found NotFound,
    invalid Invalid,
    conflict Conflict,
    unauthenticated Unauthenticated,
    forbidden Forbidden,
    too_large TooLarge,
    timed_out TimedOut,
    limited Limited,
    storage_full StorageFull,
    unavailable Unavailable,
}

impl Error {
    /// A fault of ours: the caller sees a fixed sentence, to which the router adds the request's id; the log has the
    /// cause under that id.
    pub fn internal(cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
        Error {
            kind: Kind::Internal,
            message: "something went wrong on our side; the log has the reason under the request's id".into(),
            code: None,
            cause: Some(cause.into()),
            retry_after: None,
        }
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

    /// Adds the code.
    pub fn coded(mut self, code: &'static str) -> Error {
        self.code = Some(code);
        self
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
        write!(f, "{:?}: {}", self.kind, self.message)?;
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
        let shown = error.to_string();
        let shown = match error {
            StoreError::NotFound(_) => Error::not_found(shown),
            StoreError::AlreadyExists(_) | StoreError::Conflict(_) => Error::conflict(shown),
            StoreError::Invalid(_) => Error::invalid(shown),
            StoreError::TooLarge(_) => Error::too_large(shown),
            StoreError::TimedOut(_) => Error::timed_out(shown),
            StoreError::StorageFull(_) => Error::storage_full(
                "the disk of the daemon is full: nothing was changed, reading goes on; an operator must free space",
            ),
            StoreError::Unavailable(_) => Error::unavailable("the store does not answer; try again in a moment"),
            StoreError::Replaced(_) => Error::unavailable(shown),
            _ => return Error::internal(error),
        };
        shown.because(error)
    }
}
