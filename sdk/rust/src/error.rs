//! Why a call did not come to an answer, as kinds a caller can act on. Each names the operation and the way out.

use std::{borrow::Cow, error, fmt, time::Duration};

use openorch_api::ErrorCode;

use crate::retry::is_temporary;

/// A failed call.
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
    /// The server (or the service behind its gateway) understood the call and said no.
    Refused {
        /// The operation id, or method and path of a raw call.
        operation: Cow<'static, str>,
        /// The HTTP status.
        status: u16,
        /// What the refusal is told apart by, where it has a code: the daemon's own have one (`docs/errors.md` lists them),
        /// those of services behind its gateway may not.
        code: Option<String>,
        /// The server's own sentence. It may be reworded: decide by the code.
        message: String,
        /// When the server says to try again (`Retry-After` in seconds).
        retry_after: Option<Duration>,
        /// Under this id the call stands in the server's log.
        request_id: Option<String>,
    },
    /// No connection, or no answer in time. Whether the server did anything is unknown unless `was_sent` is false.
    Unreachable {
        /// The operation id, or method and path of a raw call.
        operation: Cow<'static, str>,
        /// Where the server was looked for.
        url: String,
        /// What went wrong, in words.
        reason: String,
        /// Whether the request may have reached the server.
        was_sent: bool,
    },
    /// An answer that is none of ours: a page of HTML, a redirect, a body that was cut.
    Unexpected {
        /// The operation id, or method and path of a raw call.
        operation: Cow<'static, str>,
        /// The HTTP status.
        status: u16,
        /// What was wrong with the answer.
        reason: String,
        /// Under this id the call stands in the server's log, if it was the server that answered.
        request_id: Option<String>,
    },
    /// What was given to this library cannot be sent. Nothing was.
    Invalid(String),
    /// The credential of the service cannot be read or kept, or is not its account's.
    Credential(String),
    /// The caller of a service did not say who it is, or with a token that is not good. The sentence is for the caller.
    Unauthenticated(String),
    /// The caller of a service lacks a permission. The sentence is for the caller.
    Forbidden(String),
    /// What the datastore of the service said.
    #[cfg(feature = "datastore")]
    Datastore(openorch_store::StoreError),
    /// The service cannot run: no address to listen on, a path that no request can reach.
    Service(String),
}

impl Error {
    /// The HTTP status of the answer, where there was one.
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

    /// The code of the refusal, where it has one.
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

    /// Whether the server refused with this code.
    ///
    /// ```
    /// use openorch_sdk::{Error, api::user::errors::SLUG_TAKEN};
    ///
    /// assert!(!Error::Invalid("nothing was sent".into()).is(&SLUG_TAKEN));
    /// ```
    pub fn is(&self, code: &ErrorCode) -> bool {
        self.code() == Some(code.id)
    }

    /// Under this id the call stands in the server's log.
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

    /// Whether the same call may well succeed in a moment: the server is away, starting, or asks for patience.
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

    /// When the server says to try again, if it does.
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
                write!(f, "{operation}: no answer from {url}: {reason}")
            }
            Error::Unexpected { operation, status, reason, .. } => {
                write!(f, "{operation}: this does not look like an answer of OpenOrch ({status}): {reason}")
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
