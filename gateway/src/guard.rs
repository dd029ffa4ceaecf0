//! Restricts access to programs on this machine while the default password or key is set (decision "Restricted mode").
//! Rejects cross-origin requests of web pages, and DNS rebinding.

use http::HeaderMap;
use openorch_chassis::{
    codes::gateway as codes,
    local::{Foreign, foreign},
};

use crate::refusal::Refusal;

/// `host` is the authority of the request target if it has one, else `Host`; `remedy` says how to end the restriction.
pub fn refuse_strangers(headers: &HeaderMap, host: Option<&[u8]>, builtin: bool, way_out: &str) -> Result<(), Refusal> {
    let what = match foreign(headers, host) {
        None => return Ok(()),
        Some(Foreign::Host) => "the host of this request is not localhost",
        Some(Foreign::Origin) => "the origin of this request is not localhost",
        Some(Foreign::Forwarded) if builtin => "this request was forwarded by another proxy",
        Some(Foreign::Forwarded) => return Ok(()),
    };
    Err(Refusal::new(&codes::STRANGER, format!("{what}: {way_out}")))
}
