//! The seam to whatever sends mail.

use crate::{BoxFuture, Result};

/// Sends mail for the daemon.
pub trait Mailer: Send + Sync + 'static {
    /// Refuses at once where no mail server is set: trying again does not help, so this is no `Unavailable`.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Hands a message for one reader to a mail server. `Invalid` where `to` is no address, `Unavailable` where the
    /// server does not take it, `Conflict` where none is set. `asked_by` is the network or account for which it is sent: these
    /// take turns.
    fn send<'a>(&'a self, asked_by: &'a str, to: &'a str, subject: &'a str, text: String) -> BoxFuture<'a, Result<()>>;
}
