//! One-time codes that are sent to a contact.

pub mod codes;
pub mod send;
