//! Tokens: parsing, claims, and signing keys.

pub mod digest;
pub mod header;
pub mod jwt;
pub mod keys;
pub mod role_claims;
pub mod signing;
pub mod stored_keys;
