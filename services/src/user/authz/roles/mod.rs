//! Roles and their assignment to accounts.

pub mod assignable;
pub mod assignments;
pub mod enroll;
pub mod organization;
pub mod role;
