//! Error responses of the gateway: a code and a message, as JSON.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use openorch_chassis::{Error, ErrorCode, codes::gateway as codes, response::error_body};

#[derive(Debug)]
pub struct Refusal {
    error: Error,
    /// Whether the connection is closed after the response.
    closes: bool,
}

impl Refusal {
    pub fn new(code: &'static ErrorCode, sentence: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { error: Error::new(code, sentence), closes: false }
    }

    /// A refusal of an invalid HTTP request.
    pub fn invalid(sentence: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(&codes::INVALID_REQUEST, sentence)
    }

    /// Closes the connection after the response.
    pub fn closing(self) -> Refusal {
        Refusal { closes: true, ..self }
    }

    pub fn status(&self) -> StatusCode {
        self.error.status()
    }

    pub fn sentence(&self) -> &str {
        &self.error.message
    }

    pub fn into_response(self) -> Response<Bytes> {
        let status = self.status();
        let mut response = Response::new(Bytes::from(error_body(self.error.code, &self.error.message)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        // Web pages can read the error, as they can for built-in paths.
        let any = HeaderValue::from_static("*");
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, self.error.retry_after.unwrap_or(1).into());
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(cause = ?error.cause, "verifying the caller's token failed");
        }
        Refusal { error, closes: false }
    }
}

/// A slug from a request, truncated for messages.
pub fn display_slug(slug: &str) -> Cow<'_, str> {
    match slug.char_indices().nth(80) {
        None => slug.into(),
        Some((end, _)) => format!("{}…", &slug[..end]).into(),
    }
}
