//! The built-in services, one folder each, alike inside. No service imports another.

pub mod platform;
pub mod registry;
pub mod user;
