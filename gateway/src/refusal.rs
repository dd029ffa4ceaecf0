//! What the gateway says when it does not hand a request on: a status and a sentence, as JSON.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use openorch_chassis::{Error, Kind};

#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    sentence: Cow<'static, str>,
    retry_after: Option<HeaderValue>,
    /// Whether the connection ends with this answer.
    closes: bool,
}

impl Refusal {
    pub fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, sentence: sentence.into(), retry_after: None, closes: false }
    }

    pub fn bad_request(sentence: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, sentence)
    }

    pub fn bad_gateway(sentence: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::BAD_GATEWAY, sentence)
    }

    pub fn unavailable(sentence: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            retry_after: Some(HeaderValue::from_static("1")),
            ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
        }
    }

    pub fn limited(sentence: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            retry_after: Some(HeaderValue::from_static("1")),
            ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, sentence)
        }
    }

    /// The same, and then the connection is closed.
    pub fn closing(self) -> Refusal {
        Refusal { closes: true, ..self }
    }

    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    pub fn into_response(self) -> Response<Bytes> {
        let sentence = serde_json::Value::from(self.sentence);
        let mut response = Response::new(Bytes::from(format!("{{\"error\": {sentence}}}")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        // So that a page can read why its call failed, as it can on built-in paths.
        let any = HeaderValue::from_static("*");
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        if error.kind == Kind::Internal {
            tracing::error!(cause = ?error.cause, "the caller's token could not be judged");
        }
        Refusal {
            retry_after: (error.kind == Kind::Unavailable).then_some(HeaderValue::from_static("1")),
            ..Refusal::new(error.kind.status(), error.message)
        }
    }
}

/// A slug as it may stand in a sentence: somebody else chose it.
pub fn shown(slug: &str) -> Cow<'_, str> {
    match slug.char_indices().nth(80) {
        None => slug.into(),
        Some((end, _)) => format!("{}…", &slug[..end]).into(),
    }
}
