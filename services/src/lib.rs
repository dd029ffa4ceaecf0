//! The built-in services, one folder each, alike inside. No service imports another.

pub mod platform;
pub mod policy;
mod query;
pub mod registry;
#[cfg(test)]
mod test_platform;
#[cfg(test)]
mod unsure;
pub mod user;

use openorch_chassis::Module;

/// The services that the daemon runs, beside the two that everything rests on: identity and the daemon's own paths.
pub const MODULES: &[Module] = &[registry::MODULE, policy::MODULE];
