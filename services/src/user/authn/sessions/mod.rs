//! Sessions: issue, cache, expiry and revocation.

pub mod cache;
pub mod issue;
pub mod live;
pub mod revoke;
