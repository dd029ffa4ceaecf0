//! Accounts as checks need them, and as far as they are used in memory.

pub mod account;
pub mod cache;
