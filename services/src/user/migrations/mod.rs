//! One-time migrations of rows stored by older versions.

pub mod contacts;
pub mod orphaned_roles;
