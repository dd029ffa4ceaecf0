//! Who a caller is: signing in with passwords and one-time codes, the sessions that come of it, and the tokens that stand
//! for them.

pub mod identity;
pub mod otp;
pub mod passwords;
pub mod rows;
pub mod sessions;
pub mod sign_in;
pub mod state;
pub mod tokens;
