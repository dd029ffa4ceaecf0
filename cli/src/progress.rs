//! Progress of long operations, and the message when Ctrl-C interrupts one. Progress is shown on a terminal only:
//! scripts read the final output.

use std::{
    cell::{Cell, RefCell},
    io::{self, IsTerminal, Write},
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Most answers arrive sooner, and then no progress is shown.
const SHOW_AFTER: Duration = Duration::from_secs(1);

/// How far a command has got.
#[derive(Default)]
pub struct Progress {
    /// For several items: number done, total, and the verb.
    counted: Cell<Option<(usize, usize, &'static str)>>,
    /// A write request that has no answer yet.
    pending_write: RefCell<Option<String>>,
    is_streaming: Cell<bool>,
}

impl Progress {
    /// Reports that `done` of `all` items are, for example, `saved`.
    pub fn count(&self, done: usize, all: usize, verb: &'static str) {
        self.counted.set(Some((done, all, verb)));
        if all > 1 && is_shown() {
            if done < all { show(&format!("{done} of {all} {verb}")) } else { clear() }
        }
    }

    /// The items done so far, for an error message. Empty for fewer than two items.
    pub fn summary(&self) -> String {
        match self.counted.get() {
            Some((done, all, verb)) if all > 1 => format!("{done} of {all} were {verb}"),
            _ => String::new(),
        }
    }

    /// Waits for the response of `server` to a request; `writes` names the request if it changes something.
    pub async fn wait<T>(&self, server: &str, writes: Option<&str>, answer: impl Future<Output = T>) -> T {
        *self.pending_write.borrow_mut() = writes.map(str::to_owned);
        let answered = await_with_progress(server, answer).await;
        *self.pending_write.borrow_mut() = None;
        answered
    }

    /// From now on the command streams output, and Ctrl-C is its regular end.
    pub fn set_streaming(&self) {
        self.is_streaming.set(true);
    }

    pub fn is_streaming(&self) -> bool {
        self.is_streaming.get()
    }

    /// The message when Ctrl-C is pressed now.
    pub fn interrupted_message(&self) -> String {
        let mut parts = vec!["interrupted by Ctrl-C".to_owned()];
        parts.extend(Some(self.summary()).filter(|text| !text.is_empty()));
        if let Some(request) = &*self.pending_write.borrow() {
            parts.push(format!("{request} was in progress; its outcome is unknown"));
        }
        parts.join("; ")
    }
}

async fn await_with_progress<T>(server: &str, answer: impl Future<Output = T>) -> T {
    if !is_shown() {
        return answer.await;
    }
    let started = Instant::now();
    let mut ticks = interval_at(started + SHOW_AFTER, Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = pin!(answer);
    loop {
        tokio::select! {
            biased;
            answered = &mut answer => {
                clear();
                return answered;
            }
            _ = ticks.tick() => {
                show(&format!("waiting for {server}, {} s (Ctrl-C stops)", started.elapsed().as_secs()));
            }
        }
    }
}

/// Whether stderr is a terminal that can overwrite a line.
fn is_shown() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Whether an unfinished progress line is on the terminal.
static HAS_LINE: AtomicBool = AtomicBool::new(false);

fn show(line: &str) {
    HAS_LINE.store(true, Ordering::Relaxed);
    let _ = write!(io::stderr(), "\r\u{1b}[K{line} ");
}

/// Erases the progress line before other output.
pub fn clear() {
    if HAS_LINE.swap(false, Ordering::Relaxed) {
        let _ = write!(io::stderr(), "\r\u{1b}[K");
    }
}
