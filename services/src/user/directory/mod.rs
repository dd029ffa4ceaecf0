//! Creating, listing, changing and deleting accounts, contacts, organizations, apps and invitations.

pub mod app;
pub mod contact;
pub mod invitation;
pub mod new_account;
pub mod organization;
pub mod profile;
pub mod registration;
pub mod rows;
pub mod state;
pub mod users;
