//! Responses, read as a whole or in chunks, and the conversion of unsuccessful ones to errors.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use crate::{Error, retry::retry_after};

/// Maximum bytes of an unexpected response to quote in an error message.
const MAX_EXCERPT_BYTES: usize = 120;

/// The response to a raw call.
///
/// ```
/// use openorch_sdk::{Response, http::{HeaderMap, StatusCode}};
///
/// let bytes = r#"{"error": "there is no such service"}"#.into();
/// let answer = Response { status: StatusCode::NOT_FOUND, headers: HeaderMap::new(), bytes };
/// assert_eq!(answer.error_message().as_deref(), Some("there is no such service"));
/// assert_eq!(answer.request_id(), None);
/// ```
#[derive(Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: StatusCode,
    /// The response headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub bytes: Bytes,
}

/// The response to a raw call whose body is not read yet, returned by [`Client::stream`](crate::Client::stream).
///
/// ```
/// fn is_json(answer: &openorch_sdk::StreamingResponse) -> bool {
///     answer.headers.get("content-type").is_some_and(|kind| kind == "application/json")
/// }
/// ```
#[derive(Debug)]
pub struct StreamingResponse {
    /// The HTTP status.
    pub status: StatusCode,
    /// The response headers.
    pub headers: HeaderMap,
    pub(crate) body: reqwest::Response,
    pub(crate) operation: Cow<'static, str>,
    /// Maximum size of the body if it is read into memory.
    pub(crate) limit: usize,
}

impl StreamingResponse {
    /// The next chunk of the body; `None` at its end.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, StreamingResponse};
    /// async fn skip(mut answer: StreamingResponse) -> Result<(), Error> {
    ///     while answer.chunk().await?.is_some() {}
    ///     Ok(())
    /// }
    /// ```
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.body.chunk().await;
        piece.map_err(|error| self.unexpected_error(format!("the response is incomplete: {}", root_cause(&error))))
    }

    /// Reads the rest of the body into memory, up to the client's limit.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, StreamingResponse, Response};
    /// async fn all_of(answer: StreamingResponse) -> Result<Response, Error> {
    ///     answer.read_to_end().await
    /// }
    /// ```
    pub async fn read_to_end(mut self) -> Result<Response, Error> {
        let announced = self.body.content_length().unwrap_or_default();
        if usize::try_from(announced).is_ok_and(|length| length <= self.limit) {
            let Some(first) = self.chunk().await? else { return Ok(self.with_body(Bytes::new())) };
            // Most responses are a single chunk, which does not need to be copied.
            let Some(second) = self.chunk_within_limit(first.len()).await? else { return Ok(self.with_body(first)) };
            let mut bytes = Vec::from(first);
            bytes.extend_from_slice(&second);
            while let Some(piece) = self.chunk_within_limit(bytes.len()).await? {
                bytes.extend_from_slice(&piece);
            }
            return Ok(self.with_body(bytes.into()));
        }
        Err(self.limit_exceeded())
    }

    async fn chunk_within_limit(&mut self, read: usize) -> Result<Option<Bytes>, Error> {
        match self.chunk().await? {
            Some(piece) if piece.len() > self.limit.saturating_sub(read) => Err(self.limit_exceeded()),
            piece => Ok(piece),
        }
    }

    fn with_body(self, bytes: Bytes) -> Response {
        Response { status: self.status, headers: self.headers, bytes }
    }

    fn limit_exceeded(&self) -> Error {
        self.unexpected_error(format!("the body exceeds the client's limit of {} bytes", self.limit))
    }

    fn unexpected_error(&self, reason: String) -> Error {
        let request_id = request_id(&self.headers).map(str::to_owned);
        Error::Unexpected { operation: self.operation.clone(), status: self.status.as_u16(), reason, request_id }
    }
}

fn request_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-request-id")?.to_str().ok()
}

// Not derived, so that `{:?}` never logs the body, which may contain a token.
impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Response { status, bytes, .. } = self;
        let request_id = &self.request_id();
        f.debug_struct("Response")
            .field("status", status)
            .field("request_id", request_id)
            .field("bytes", &bytes.len())
            .finish()
    }
}

impl Response {
    /// The request id, which the server's log uses too.
    ///
    /// ```
    /// fn log(answer: &openorch_sdk::Response) {
    ///     println!("{} (request {})", answer.status, answer.request_id().unwrap_or("unknown"));
    /// }
    /// ```
    pub fn request_id(&self) -> Option<&str> {
        request_id(&self.headers)
    }

    /// The error message, if this is an error response of the platform: `{"error": "…"}`.
    ///
    /// ```
    /// fn describe(answer: &openorch_sdk::Response) -> String {
    ///     answer.error_message().unwrap_or_else(|| answer.status.to_string())
    /// }
    /// ```
    pub fn error_message(&self) -> Option<String> {
        self.text("error")
    }

    /// The error code, if this is an error response of the platform with a code.
    ///
    /// ```
    /// fn is_ended(answer: &openorch_sdk::Response) -> bool {
    ///     answer.code().as_deref() == Some(openorch_sdk::api::error::access::SESSION_ENDED.id)
    /// }
    /// ```
    pub fn code(&self) -> Option<String> {
        self.text("code")
    }

    fn text(&self, field: &str) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.bytes).ok()?;
        Some(body.get(field)?.as_str()?.to_owned())
    }
}

pub(crate) fn into_success(operation: Cow<'static, str>, answer: Response) -> Result<Response, Error> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    if !answer.status.is_client_error() && !answer.status.is_server_error() {
        let reason = match answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()) {
            Some(to) => format!("it redirects to `{to}`; use the URL of the server itself"),
            None => "the status is neither a success nor an error".into(),
        };
        return Err(unexpected(operation, &answer, reason));
    }
    let message = match answer.error_message() {
        Some(message) => message,
        // Errors that the server's HTTP library returns for a malformed request have no body.
        None if answer.bytes.is_empty() => answer.status.canonical_reason().unwrap_or("no reason given").into(),
        None => {
            let reason = describe_non_json(&answer).unwrap_or_else(|| "the error response has no `error`".into());
            return Err(unexpected(operation, &answer, reason));
        }
    };
    let request_id = answer.request_id().map(str::to_owned);
    let retry_after = retry_after(&answer.headers);
    let (status, code) = (answer.status.as_u16(), answer.code());
    Err(Error::Refused { operation, status, code, message, retry_after, request_id })
}

pub(crate) fn unexpected(operation: Cow<'static, str>, answer: &Response, reason: String) -> Error {
    let request_id = answer.request_id().map(str::to_owned);
    Error::Unexpected { operation, status: answer.status.as_u16(), reason, request_id }
}

/// Describes a body that is not JSON; `None` if it looks like JSON.
pub(crate) fn describe_non_json(answer: &Response) -> Option<String> {
    let text = String::from_utf8_lossy(&answer.bytes[..answer.bytes.len().min(MAX_EXCERPT_BYTES)]);
    let text = text.trim();
    match text.chars().next() {
        None => Some("the body is empty".into()),
        Some('<') => Some("it is an HTML page; another program may be listening at this address".into()),
        Some('{' | '[' | '"') => None,
        Some(_) => Some(format!("the body is `{}`", text.escape_debug())),
    }
}

/// The innermost cause of an error; the outer ones only say that a request failed.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
