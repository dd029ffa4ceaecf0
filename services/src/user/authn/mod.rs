//! Authentication: sign-in with passwords and one-time codes, sessions and tokens.

pub mod identity;
pub mod otp;
pub mod passwords;
pub mod rows;
pub mod sessions;
pub mod sign_in;
pub mod state;
pub mod tokens;
