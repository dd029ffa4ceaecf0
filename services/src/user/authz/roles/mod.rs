//! Roles: what there are, and which account has which.

pub mod assignments;
pub mod enroll;
pub mod givable;
pub mod organization;
pub mod role;
