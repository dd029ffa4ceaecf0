//! A gate that blocks an operation, such as a stub's response, until the test opens it.

use std::sync::{Mutex, mpsc};

use crate::WAIT_TIMEOUT;

/// Opens the gate when dropped.
pub struct GateOpener(#[allow(dead_code, reason = "dropping it disconnects the channel")] mpsc::Sender<()>);

/// The gate at which threads wait.
pub struct Gate(Mutex<mpsc::Receiver<()>>);

/// A closed gate.
pub fn gate() -> (GateOpener, Gate) {
    let (sender, receiver) = mpsc::channel();
    (GateOpener(sender), Gate(Mutex::new(receiver)))
}

impl Gate {
    /// Waits until the gate opens, up to a timeout in case the test has failed.
    pub fn wait(&self) {
        // Nothing is ever sent: the receive ends when the sender is dropped or on timeout.
        let _ = self.0.lock().map(|receiver| receiver.recv_timeout(WAIT_TIMEOUT));
    }
}
