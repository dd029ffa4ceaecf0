//! The trait for sending mail.

use crate::{BoxFuture, Result};

/// Sends mail for the daemon.
pub trait Mailer: Send + Sync + 'static {
    /// Fails if no mail server is configured. A retry does not help, so the error is not `Unavailable`.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Submits a message for one recipient to the mail server. Fails with `Invalid` if `to` is no address, `Unavailable` if
    /// the server does not accept it, `Conflict` if none is configured. `asked_by` is the network or account for which it is
    /// sent: the queue is fair among these.
    fn send<'a>(&'a self, asked_by: &'a str, to: &'a str, subject: &'a str, text: String) -> BoxFuture<'a, Result<()>>;
}
