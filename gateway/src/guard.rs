//! While the default password or key stands, only a program on this machine may speak to the daemon (decision
//! "Restricted mode"): a page from elsewhere, or one that made its own name point here, is refused.

use http::HeaderMap;
use openorch_chassis::{
    codes::gateway as codes,
    local::{Foreign, foreign},
};

use crate::refusal::Refusal;

/// `host` is the target's authority where the request has one, else its `Host`; `way_out` says how this ends.
pub fn refuse_strangers(headers: &HeaderMap, host: Option<&[u8]>, builtin: bool, way_out: &str) -> Result<(), Refusal> {
    let what = match foreign(headers, host) {
        None => return Ok(()),
        Some(Foreign::Host) => "this request asks for a host other than localhost",
        Some(Foreign::Origin) => "this request comes from a page that is not on localhost",
        Some(Foreign::Forwarded) if builtin => "this request was forwarded by another proxy",
        Some(Foreign::Forwarded) => return Ok(()),
    };
    Err(Refusal::new(&codes::STRANGER, format!("{what}: {way_out}")))
}
