//! The error type of the SDK. Its variants are the cases that a caller handles differently; each message names the
//! operation and the remedy.

use std::{borrow::Cow, error, fmt, time::Duration};

use openorch_api::ErrorCode;

use crate::retry::is_temporary;

/// An error of a call or of the service.
///
/// ```
/// use openorch_sdk::{Error, api::error::access};
///
/// fn advise(error: &Error) -> &'static str {
///     match error {
///         error if error.is(&access::PERMISSION_MISSING) => "ask an admin",
///         error if error.is_temporary() => "try again in a moment",
///         _ => "read the message",
///     }
/// }
/// let error = Error::Refused {
///     operation: "listNodes".into(),
///     status: 403,
///     code: Some("access.permission_missing".into()),
///     message: "no".into(),
///     retry_after: None,
///     request_id: None,
/// };
/// assert_eq!((advise(&error), error.to_string().as_str()), ("ask an admin", "listNodes: no (403)"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The daemon, or the service behind its gateway, returned an error response.
    Refused {
        /// The operation id, or method and path of a raw call.
        operation: Cow<'static, str>,
        /// The HTTP status.
        status: u16,
        /// The error code. Errors of the daemon always have one (listed in `docs/errors.md`); errors of services behind
        /// its gateway may not.
        code: Option<String>,
        /// The server's error message. It may be reworded; use the code to decide.
        message: String,
        /// The `Retry-After` header.
        retry_after: Option<Duration>,
        /// The request id, which the server's log uses too.
        request_id: Option<String>,
    },
    /// No connection, or no response in time. If `was_sent` is true, it is unknown whether the server executed the call.
    Unreachable {
        /// The operation id, or method and path of a raw call.
        operation: Cow<'static, str>,
        /// The URL of the server.
        url: String,
        /// The cause.
        reason: String,
        /// Whether the request may have reached the server.
        was_sent: bool,
    },
    /// The response is not valid for this API: an HTML page, a redirect, or an incomplete body.
    Unexpected {
        /// The operation id, or method and path of a raw call.
        operation: Cow<'static, str>,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the response.
        reason: String,
        /// The request id, if the response came from the daemon.
        request_id: Option<String>,
    },
    /// The arguments are invalid; nothing was sent.
    Invalid(String),
    /// The credential of the service cannot be read or saved, or does not belong to its account.
    Credential(String),
    /// The caller of a service sent no token or an invalid one. The message is for the caller.
    Unauthenticated(String),
    /// The caller of a service lacks a permission. The message is for the caller.
    Forbidden(String),
    /// An error of the service's datastore.
    #[cfg(feature = "datastore")]
    Datastore(openorch_store::StoreError),
    /// The service cannot run, for example because its address is in use or a route is unreachable.
    Service(String),
}

impl Error {
    /// The HTTP status of the response, if there was one.
    ///
    /// ```
    /// assert_eq!(openorch_sdk::Error::Invalid("nothing was sent".into()).status(), None);
    /// ```
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } | Error::Unexpected { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The error code, if there is one.
    ///
    /// ```
    /// assert_eq!(openorch_sdk::Error::Invalid("nothing was sent".into()).code(), None);
    /// ```
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Refused { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// Whether the server returned this error code.
    ///
    /// ```
    /// use openorch_sdk::{Error, api::user::errors::SLUG_TAKEN};
    ///
    /// assert!(!Error::Invalid("nothing was sent".into()).is(&SLUG_TAKEN));
    /// ```
    pub fn is(&self, code: &ErrorCode) -> bool {
        self.code() == Some(code.id)
    }

    /// The request id, which the server's log uses too.
    ///
    /// ```
    /// assert_eq!(openorch_sdk::Error::Invalid("nothing was sent".into()).request_id(), None);
    /// ```
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Error::Refused { request_id, .. } | Error::Unexpected { request_id, .. } => request_id.as_deref(),
            _ => None,
        }
    }

    /// Whether the error is transient, so that a retry may succeed: the server is unreachable, starting or overloaded.
    ///
    /// ```
    /// assert!(!openorch_sdk::Error::Invalid("nothing was sent".into()).is_temporary());
    /// ```
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Refused { status, .. } | Error::Unexpected { status, .. } => is_temporary(*status),
            #[cfg(feature = "datastore")]
            Error::Datastore(error) => {
                use openorch_store::StoreError::{Conflict, StorageFull, TimedOut, Unavailable};
                matches!(error, Conflict(_) | StorageFull(_) | TimedOut(_) | Unavailable(_))
            }
            _ => false,
        }
    }

    /// The server's `Retry-After`, if there is one.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused { operation, status, message, .. } => write!(f, "{operation}: {message} ({status})"),
            Error::Unreachable { operation, url, reason, .. } => {
                write!(f, "{operation}: no response from {url}: {reason}")
            }
            Error::Unexpected { operation, status, reason, .. } => {
                write!(f, "{operation}: this is not a response of OpenOrch ({status}): {reason}")
            }
            Error::Invalid(reason)
            | Error::Credential(reason)
            | Error::Unauthenticated(reason)
            | Error::Forbidden(reason)
            | Error::Service(reason) => f.write_str(reason),
            #[cfg(feature = "datastore")]
            Error::Datastore(error) => error.fmt(f),
        }?;
        match self.request_id() {
            Some(id) => write!(f, " [request {id}]"),
            None => Ok(()),
        }
    }
}

impl error::Error for Error {}
