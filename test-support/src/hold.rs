//! A gate that blocks an operation, such as a stub's response, until the test opens it.

use std::sync::{Mutex, mpsc};

use crate::PATIENCE;

/// Opens the gate when dropped.
pub struct Hold(#[allow(dead_code, reason = "dropping it disconnects the channel")] mpsc::Sender<()>);

/// The gate at which threads wait.
pub struct Held(Mutex<mpsc::Receiver<()>>);

/// A closed gate.
pub fn hold() -> (Hold, Held) {
    let (sender, receiver) = mpsc::channel();
    (Hold(sender), Held(Mutex::new(receiver)))
}

impl Held {
    /// Waits until the gate opens, up to a timeout in case the test has failed.
    pub fn wait(&self) {
        // Nothing is ever sent: the receive ends when the sender is dropped or on timeout.
        let _ = self.0.lock().map(|receiver| receiver.recv_timeout(PATIENCE));
    }
}
