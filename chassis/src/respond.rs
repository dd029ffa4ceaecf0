//! Answers of built-in operations: the CORS headers on each, errors as `{"error": "sentence"}`.

use http::{HeaderValue, Response, StatusCode, header};
use openorch_api::output::{Encoded, JSON};

use crate::{Body, Error};

/// Any page may call (contract decision 13): nothing is ever authenticated by cookie, so `*` gives nothing away.
const CORS: &[(header::HeaderName, &str)] = &[
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Content-Encrypted, OpenOrch-Extended",
    ),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, "X-Request-Id, Retry-After"),
];

pub fn with_cors(mut response: Response<Body>) -> Response<Body> {
    for (name, value) in CORS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

pub fn success(status: StatusCode, encoded: Option<Encoded>) -> Response<Body> {
    let (content_type, body) = match encoded {
        Some(encoded) => (encoded.content_type, Body::from(encoded.body)),
        None => (JSON, Body::default()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if content_type.starts_with("text/html") {
        // The page has no script and loads nothing: let the browser hold it to that.
        let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `{"error": "sentence"}` with one space after the colon, as published clients know it; with a code where there is one.
pub fn error_body(sentence: &str, code: Option<&str>) -> String {
    // A string always has a JSON form.
    let code = code.map(|code| format!(", \"code\": {}", serde_json::Value::from(code))).unwrap_or_default();
    format!("{{\"error\": {}{code}}}", serde_json::Value::from(sentence))
}

pub fn refusal(status: StatusCode, sentence: &str) -> Response<Body> {
    coded_refusal(status, sentence, None)
}

fn coded_refusal(status: StatusCode, sentence: &str, code: Option<&str>) -> Response<Body> {
    let mut response = Response::new(Body::from(error_body(sentence, code)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

pub fn failure(error: &Error) -> Response<Body> {
    let mut response = coded_refusal(error.kind.status(), &error.message, error.code);
    if error.kind == crate::Kind::Unauthenticated {
        // RFC 9110, 11.6.1: a 401 names the scheme.
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(error.kind, crate::Kind::Unavailable | crate::Kind::Limited) {
        response.headers_mut().insert(header::RETRY_AFTER, error.retry_after.unwrap_or(1).into());
    }
    response
}
