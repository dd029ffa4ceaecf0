//! The built-in services, one directory each, all with the same layout. No service imports another.

pub mod platform;
pub mod policy;
mod query;
pub mod registry;
pub mod user;

use openorch_chassis::Module;
#[cfg(test)]
use openorch_test_support::{indeterminate_store, platform as test_platform};

/// The optional services. The daemon always runs two more: identity and its own paths.
pub const MODULES: &[Module] = &[registry::MODULE, policy::MODULE];
