//! The built-in services, one folder each, alike inside. No service imports another.

pub mod platform;
pub mod policy;
mod query;
pub mod registry;
pub mod user;

use openorch_chassis::Module;
#[cfg(test)]
use openorch_test_support::{platform as test_platform, unsure};

/// The services that the daemon runs, beside the two that everything rests on: identity and the daemon's own paths.
pub const MODULES: &[Module] = &[registry::MODULE, policy::MODULE];
