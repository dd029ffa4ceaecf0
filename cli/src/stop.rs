//! Ctrl-C once a command waits for others. It is heard on a thread of its own, so that it ends the program wherever that
//! is: waiting for an answer, which then says what was under way; or held up by a reader who does not read, or by a lock.

use std::{future::pending, io, process, thread, time::Duration};

use tokio::{runtime::Builder, sync::oneshot, time::sleep};

/// What shells say of a program that SIGINT ended.
pub const CODE: u8 = 130;
/// So long the program has to say what was under way; whoever is held up by others has nothing to say.
const GRACE: Duration = Duration::from_secs(1);

/// Done when Ctrl-C comes. It is listened for from the first poll on: until then, while questions are asked, Ctrl-C
/// simply ends the program.
pub async fn stopped() {
    let (tell, told) = oneshot::channel();
    // Where signals cannot be listened for, Ctrl-C goes on ending the program.
    if listen(tell).is_err() || told.await.is_err() {
        pending().await
    }
}

fn listen(tell: oneshot::Sender<()>) -> io::Result<()> {
    // Here and not on the thread, so that it is in place when this returns.
    let mut signal = signal()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let watch = move || {
        runtime.block_on(async {
            signal.recv().await;
            let _ = tell.send(());
            tokio::select! {
                () = sleep(GRACE) => {}
                _ = signal.recv() => {}
            }
        });
        process::exit(i32::from(CODE));
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
