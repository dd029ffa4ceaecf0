//! Ctrl-C while a command waits. A separate thread handles the signal, so that it ends the program even when the main
//! thread is blocked on a lock or a slow reader. A command that waits for an answer first reports the request in
//! progress.

use std::{future::pending, io, process, thread, time::Duration};

use tokio::{runtime::Builder, sync::oneshot, time::sleep};

/// Exit code of a program that SIGINT ended, by shell convention.
pub const EXIT_CODE: u8 = 130;
/// Time the program has to report the request in progress before it is ended.
const GRACE: Duration = Duration::from_secs(1);

/// Completes on Ctrl-C. The handler is installed by the first poll: until then, during prompts, Ctrl-C has its default
/// effect.
pub async fn ctrl_c() {
    let (sender, receiver) = oneshot::channel();
    // Without a signal handler, Ctrl-C keeps its default effect.
    if listen(sender).is_err() || receiver.await.is_err() {
        pending().await
    }
}

fn listen(sender: oneshot::Sender<()>) -> io::Result<()> {
    // Installed here rather than on the thread, so that it is active when this returns.
    let mut signal = signal()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let watch = move || {
        runtime.block_on(async {
            signal.recv().await;
            let _ = sender.send(());
            tokio::select! {
                () = sleep(GRACE) => {}
                _ = signal.recv() => {}
            }
        });
        process::exit(i32::from(EXIT_CODE));
    };
    thread::Builder::new().name("ctrl-c".into()).spawn(watch).map(drop)
}

#[cfg(unix)]
fn signal() -> io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
}

#[cfg(windows)]
fn signal() -> io::Result<tokio::signal::windows::CtrlC> {
    tokio::signal::windows::ctrl_c()
}
