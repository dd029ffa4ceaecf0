//! What is done once to the rows that older versions stored.

pub mod contacts;
pub mod orphaned_roles;
