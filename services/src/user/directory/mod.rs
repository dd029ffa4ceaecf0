//! Which accounts, contacts, organizations, apps and invitations there are.

pub mod app;
pub mod contact;
pub mod invitation;
pub mod organization;
pub mod registration;
pub mod users;
