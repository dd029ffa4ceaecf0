//! Roles and their assignment to accounts.

pub mod assignments;
pub mod enroll;
pub mod assignable;
pub mod organization;
pub mod role;
