//! Shared by all parts of the user service: stored accounts and their lookup, commits, settings and contact strings.
//! Independent of the parts.

pub mod accounts;
pub mod commits;
pub mod contact_address;
pub mod quote;
pub mod rows;
pub mod settings;
pub mod start_error;
pub mod versions;
