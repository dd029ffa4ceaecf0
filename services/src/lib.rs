//! The built-in services, one folder each, alike inside. No service imports another.

pub mod platform;
mod query;
pub mod registry;
pub mod user;
