//! The body of a built-in operation's answer.

use bytes::Bytes;
use http_body_util::Full;

/// Whole in memory.
pub type Body = Full<Bytes>;
