//! Tokens: how they arrive, what they say, and the keys that sign them.

pub mod header;
pub mod jwt;
pub mod signing;
