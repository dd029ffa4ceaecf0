//! Which accounts, contacts, organizations, apps and invitations there are: made, listed, changed and deleted.

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
