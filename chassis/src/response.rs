//! Responses of built-in operations: CORS headers, and errors as `{"error": "sentence", "code": "…"}`.

use std::sync::LazyLock;

use http::{HeaderValue, Response, StatusCode, header};
use openorch_api::{
    ErrorCode,
    events::EVENT_STREAM,
    output::{Encoded, EncodedBody, JSON},
};

use crate::{Body, Error};

/// Any origin is allowed (decision "Cross-origin requests"): cookies never authenticate, so `*` exposes nothing. The
/// lists of allowed and exposed headers come from the table of operations.
static CORS: LazyLock<[(header::HeaderName, HeaderValue); 4]> = LazyLock::new(|| {
    // Header names are valid header values.
    let names = |names: String| HeaderValue::try_from(names).unwrap_or_else(|_| HeaderValue::from_static(""));
    [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, names(openorch_api::header::cors_allow_headers())),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, names(openorch_api::header::cors_expose_headers())),
    ]
});

/// Adds the CORS headers of the API to a response.
pub fn with_cors(mut response: Response<Body>) -> Response<Body> {
    for (name, value) in CORS.iter() {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

/// The response to a successful call. Without `encoded`, the body is empty.
pub fn success(status: StatusCode, encoded: Option<Encoded>) -> Response<Body> {
    let (content_type, body, etag) = match encoded {
        Some(Encoded { content_type, body }) => {
            let etag = match &body {
                EncodedBody::Shared(document) => HeaderValue::from_str(&document.etag).ok(),
                _ => None,
            };
            (content_type, Body::from(body), etag)
        }
        None => (JSON, Body::default(), None),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().extend(etag.map(|etag| (header::ETAG, etag)));
    if content_type.starts_with("text/html") {
        // The page has no scripts and loads nothing: the browser enforces that.
        let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if content_type == EVENT_STREAM {
        // An event stream must not be cached (HTML Standard, 9.2.7).
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The response, or 304 if its entity tag matches `if_none_match` by weak comparison (RFC 9110, 13.1.2).
pub fn unless_not_modified(response: Response<Body>, if_none_match: Option<&str>) -> Response<Body> {
    let Some(etag) = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()) else { return response };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let matches = |known: &str| known.trim() == "*" || known.split(',').any(|tag| opaque(tag) == opaque(etag));
    if !if_none_match.is_some_and(matches) {
        return response;
    }
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    head.headers.remove(header::CONTENT_TYPE);
    Response::from_parts(head, Body::default())
}

/// A response with encoded JSON.
pub fn json(status: StatusCode, text: String) -> Response<Body> {
    success(status, Some(Encoded::whole(JSON, text)))
}

/// `{"error": "sentence", "code": "…"}` with one space after the colons, as published clients expect it.
pub fn error_body(code: &ErrorCode, sentence: &str) -> String {
    // Codes need no escaping.
    format!("{{\"error\": {}, \"code\": \"{}\"}}", serde_json::Value::from(sentence), code.id)
}

/// The response to a failed call: the error's status with its sentence and code as JSON.
pub fn failure(error: &Error) -> Response<Body> {
    let mut response = Response::new(Body::from(error_body(error.code, &error.message)));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    match error.status() {
        // A 401 must name the scheme (RFC 9110, 11.6.1).
        StatusCode::UNAUTHORIZED => _ = headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(header::RETRY_AFTER, error.retry_after.unwrap_or(1).into());
        }
        _ => {}
    }
    response
}
