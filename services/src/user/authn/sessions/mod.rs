//! Sessions: how they begin, what is known of those that live, how they end.

pub mod cache;
pub mod issue;
pub mod live;
pub mod revoke;
