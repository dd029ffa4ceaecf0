//! What an account may do: roles, permissions, grants and delegations, and the checks that follow from them. Knows nothing
//! of how a caller signed in.

pub mod accounts;
pub mod apps;
pub mod check;
pub mod delegation;
pub mod grant;
pub mod guards;
pub mod manage;
pub mod ownership;
pub mod permission;
pub mod roles;
pub mod rows;
pub mod rules;
pub mod state;
