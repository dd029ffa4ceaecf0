//! The built-in services, one folder each, alike inside. No service imports another.

pub mod platform;
mod query;
pub mod registry;
#[cfg(test)]
mod unsure;
pub mod user;
