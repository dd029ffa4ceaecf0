//! The state of authentication.

use std::{sync::Arc, time::Duration};

use openorch_api::Time;
use openorch_chassis::Platform;

use crate::user::{
    authn::{otp::codes::OtpCodes, passwords::check::Passwords, sessions::live::Sessions, tokens::keys::Tokens},
    authz::state::Authz,
    shared::accounts::Accounts,
};

pub struct Authn {
    pub platform: Platform,
    pub accounts: Accounts,
    pub authz: Arc<Authz>,
    pub passwords: Passwords,
    pub codes: Arc<OtpCodes>,
    pub sessions: Arc<Sessions>,
    pub tokens: Arc<Tokens>,
    pub delegated_token_lifetime: Duration,
}

impl Authn {
    pub fn now(&self) -> Time {
        self.platform.now()
    }
}
