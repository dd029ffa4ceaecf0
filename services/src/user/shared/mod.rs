//! What all parts of the user service stand on: the stored accounts and how one is found, commits, settings, and the texts
//! that callers send. Knows none of the parts.

pub mod accounts;
pub mod checks;
pub mod commits;
pub mod contact_address;
pub mod rows;
pub mod settings;
pub mod start_error;
pub mod versions;
