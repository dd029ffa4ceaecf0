//! Passwords: the queue in which they are hashed, what they must be like, and what slows guessing down.

pub mod change;
pub mod check;
pub mod default_password;
pub mod hasher;
pub mod known_address;
pub mod queue;
pub mod rules;
pub mod throttle;
