//! Request and response headers that operations declare. The CORS header lists are derived from them.

use std::collections::BTreeSet;

/// A header field and its description in the OpenAPI document.
#[derive(Debug)]
pub struct Header {
    /// In lower case: names are compared without regard to case (RFC 9110, 5.1).
    pub name: &'static str,
    /// The description in the OpenAPI document.
    pub description: &'static str,
}

/// Sent by our own clients (decision "Closed answer types").
pub static EXTENDED: Header = Header {
    name: "openorch-extended",
    description: "`1`: types that the published Go client keeps closed may carry an `extra` object.",
};

/// Conditional request (RFC 9110, 13.1.2).
pub static IF_NONE_MATCH: Header = Header {
    name: "if-none-match",
    description: "The `etag` of a cached response: if it still matches, the response is 304 without a body.",
};

/// Entity tag of the response (RFC 9110, 8.8.3).
pub static ETAG: Header = Header { name: "etag", description: "The entity tag of the response, for `if-none-match`." };

/// Makes a retry safe: a repeated call with the same key receives the stored response (decision "Idempotency keys").
pub static IDEMPOTENCY_KEY: Header = Header {
    name: "idempotency-key",
    description: "1 to 255 printable ASCII characters, unique per call: a repeat of the call with the same key within \
                  24 hours receives the response of the first one.",
};

/// Sent with errors that a retry may resolve (RFC 9110, 10.2.3).
pub static RETRY_AFTER: Header = Header { name: "retry-after", description: "Seconds to wait before a retry." };

/// Sent with every response; the daemon's log uses the same id.
pub static REQUEST_ID: Header = Header { name: "x-request-id", description: "The id of the request." };

/// Request headers that every operation accepts, including those that the published system's web pages send.
const COMMON_REQUEST_HEADERS: [&str; 7] = [
    "accept",
    "accept-encoding",
    "authorization",
    "content-length",
    "content-type",
    "x-content-encrypted",
    "x-csrf-token",
];

/// The value of `Access-Control-Allow-Headers`: headers that a web page may send.
pub fn cors_allow_headers() -> String {
    let declared = crate::operations().flat_map(|row| row.all_request_headers()).map(|header| header.name);
    joined(COMMON_REQUEST_HEADERS.into_iter().chain(declared))
}

/// The value of `Access-Control-Expose-Headers`: response headers that a web page may read.
pub fn cors_expose_headers() -> String {
    let set = crate::operations().flat_map(|row| row.response_headers).map(|header| header.name);
    joined([RETRY_AFTER.name, REQUEST_ID.name].into_iter().chain(set))
}

fn joined(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}
