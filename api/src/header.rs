//! Header fields that operations read, which their rows declare, and that answers carry; what browsers may send and see
//! follows from that.

use std::collections::BTreeSet;

/// A header field, as the document describes it.
#[derive(Debug)]
pub struct Header {
    /// In lower case: names are compared without regard to case (RFC 9110, 5.1).
    pub name: &'static str,
    pub description: &'static str,
}

/// Sent by our own clients (decision "Closed answer types").
pub static EXTENDED: Header = Header {
    name: "openorch-extended",
    description: "`1`: types that the published Go client keeps closed may carry an `extra` object.",
};

/// Of what the client has already (RFC 9110, 13.1.2).
pub static IF_NONE_MATCH: Header = Header {
    name: "if-none-match",
    description: "The `etag` of an answer that the client has: while it is the same, 304 without a body.",
};

/// Of what is answered (RFC 9110, 8.8.3).
pub static ETAG: Header = Header { name: "etag", description: "Changes with the answer; for `if-none-match`." };

/// Names a call, so that a repeat of it is given the same answer and does nothing again (decision "Idempotency keys").
pub static IDEMPOTENCY_KEY: Header = Header {
    name: "idempotency-key",
    description: "1 to 255 printable ASCII characters, new for each call: the same call sent again with it within 24 hours is \
                  given the answer of the first.",
};

/// With refusals that another try may overcome (RFC 9110, 10.2.3).
pub static RETRY_AFTER: Header =
    Header { name: "retry-after", description: "Seconds after which another try may help." };

/// With every answer; the log has what happened under it.
pub static REQUEST_ID: Header = Header { name: "x-request-id", description: "The id of the request." };

/// What every operation may be sent, by a client that the published system's pages know.
const COMMON: [&str; 7] = [
    "accept",
    "accept-encoding",
    "authorization",
    "content-length",
    "content-type",
    "x-content-encrypted",
    "x-csrf-token",
];

/// The fields that a page in a browser may send, for `Access-Control-Allow-Headers`.
pub fn allowed() -> String {
    let read = crate::operations().flat_map(|row| row.headers()).map(|header| header.name);
    joined(COMMON.into_iter().chain(read))
}

/// The fields of answers that a page may see, for `Access-Control-Expose-Headers`.
pub fn exposed() -> String {
    let set = crate::operations().flat_map(|row| row.sets).map(|header| header.name);
    joined([RETRY_AFTER.name, REQUEST_ID.name].into_iter().chain(set))
}

fn joined(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}
