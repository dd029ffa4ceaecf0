//! One-time codes sent to contacts.

pub mod codes;
pub mod send;
