//! Holds back what a test wants to be in progress, such as an answer of a stub, until the test lets it go.

use std::sync::{Mutex, mpsc};

use crate::PATIENCE;

/// Lets go those it holds when it is dropped.
pub struct Hold(#[allow(dead_code, reason = "its end is what the others hear")] mpsc::Sender<()>);

/// Where those wait that are held.
pub struct Held(Mutex<mpsc::Receiver<()>>);

/// Holds all who wait.
pub fn hold() -> (Hold, Held) {
    let (sender, receiver) = mpsc::channel();
    (Hold(sender), Held(Mutex::new(receiver)))
}

impl Held {
    /// Waits until it is let go, and a bounded time at most: a test that failed before is over.
    pub fn wait(&self) {
        // Nothing is ever sent: this ends with the sender, or with the time.
        let _ = self.0.lock().map(|receiver| receiver.recv_timeout(PATIENCE));
    }
}
