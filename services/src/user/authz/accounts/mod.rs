//! Accounts as needed for checks, and their cache.

pub mod account;
pub mod cache;
