//! What an account may do: roles, permissions, grants and delegations, and the checks that follow from them.

pub mod check;
pub mod delegation;
pub mod grant;
pub mod manage;
pub mod permission;
pub mod roles;
pub mod rules;
