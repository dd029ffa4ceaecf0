//! Passwords: hashing queue, rules for new passwords, and throttling of guesses.

pub mod change;
pub mod check;
pub mod default_password;
pub mod hasher;
pub mod known_address;
pub mod queue;
pub mod rules;
pub mod throttle;
