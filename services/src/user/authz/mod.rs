//! Authorization: roles, permissions, grants, delegations, and permission checks. Independent of authentication.

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
