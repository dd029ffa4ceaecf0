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
const PATIENCE: Duration = Duration::from_secs(1);

/// How far a command has got.
#[derive(Default)]
pub struct Progress {
    /// For several items: number done, total, and the verb.
    counted: Cell<Option<(usize, usize, &'static str)>>,
    /// A write request that has no answer yet.
    under_way: RefCell<Option<String>>,
    follows: Cell<bool>,
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
    pub fn so_far(&self) -> String {
        match self.counted.get() {
            Some((done, all, verb)) if all > 1 => format!("{done} of {all} were {verb}"),
            _ => String::new(),
        }
    }

    /// Waits for the response of `server` to a request; `writes` names the request if it changes something.
    pub async fn wait<T>(&self, server: &str, writes: Option<&str>, answer: impl Future<Output = T>) -> T {
        *self.under_way.borrow_mut() = writes.map(str::to_owned);
        let answered = shown(server, answer).await;
        *self.under_way.borrow_mut() = None;
        answered
    }

    /// From now on the command streams output, and Ctrl-C is its regular end.
    pub fn follow(&self) {
        self.follows.set(true);
    }

    pub fn follows(&self) -> bool {
        self.follows.get()
    }

    /// The message when Ctrl-C is pressed now.
    pub fn stopped(&self) -> String {
        let mut parts = vec!["interrupted by Ctrl-C".to_owned()];
        parts.extend(Some(self.so_far()).filter(|text| !text.is_empty()));
        if let Some(request) = &*self.under_way.borrow() {
            parts.push(format!("{request} was in progress; its outcome is unknown"));
        }
        parts.join("; ")
    }
}

async fn shown<T>(server: &str, answer: impl Future<Output = T>) -> T {
    if !is_shown() {
        return answer.await;
    }
    let started = Instant::now();
    let mut ticks = interval_at(started + PATIENCE, Duration::from_secs(1));
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
