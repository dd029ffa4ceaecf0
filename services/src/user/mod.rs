//! Accounts.
pub mod keys;
pub mod passwords;
