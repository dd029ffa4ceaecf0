//! Restricts access to programs on this machine while the default password or key is set (decision "Restricted mode").
//! Rejects cross-origin requests of web pages, and DNS rebinding.

use http::HeaderMap;
use openorch_chassis::{
    codes::gateway as codes,
    local::{NonLocalReason, non_local_reason},
};

use crate::refusal::Refusal;

/// `host` is the authority of the request target if it has one, else `Host`; `remedy` says how to end the restriction.
pub fn require_local(headers: &HeaderMap, host: Option<&[u8]>, builtin: bool, remedy: &str) -> Result<(), Refusal> {
    let reason = match non_local_reason(headers, host) {
        None => return Ok(()),
        Some(NonLocalReason::Host) => "the host of this request is not localhost",
        Some(NonLocalReason::Origin) => "the origin of this request is not localhost",
        Some(NonLocalReason::Forwarded) if builtin => "this request was forwarded by another proxy",
        Some(NonLocalReason::Forwarded) => return Ok(()),
    };
    Err(Refusal::new(&codes::STRANGER, format!("{reason}: {remedy}")))
}
