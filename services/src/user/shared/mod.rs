//! What all parts of the user service stand on: the stored accounts and how one is found, commits, settings, and
//! contacts as texts. Knows none of the parts.

pub mod accounts;
pub mod commits;
pub mod contact_address;
pub mod rows;
pub mod settings;
pub mod shown;
pub mod start_error;
pub mod versions;
