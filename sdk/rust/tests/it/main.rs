//! The SDK as programs use it, over real connections: against a server of a few lines that answers whatever a test wants
//! (`stub.rs`), and against the daemon.

mod account;
mod client;
mod daemon;
mod datastore;
mod examples;
mod kit;
mod stub;
mod tokens;

/// Waits until it holds; twenty seconds at most.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}
