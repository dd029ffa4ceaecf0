//! What a person sees while something takes long, and is told when Ctrl-C ends it. On a terminal alone: scripts read
//! what is left in the end.

use std::{
    cell::{Cell, RefCell},
    io::{self, IsTerminal, Write},
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Answers come sooner than this, as a rule, and then nothing is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far a command is.
#[derive(Default)]
pub struct Progress {
    /// Of several things: how many are done, of how many, and what was done to them.
    counted: Cell<Option<(usize, usize, &'static str)>>,
    /// A request that changes something and is not answered yet.
    under_way: RefCell<Option<String>>,
    follows: Cell<bool>,
}

impl Progress {
    /// `done` of `all` things are, for example, `saved`.
    pub fn count(&self, done: usize, all: usize, verb: &'static str) {
        self.counted.set(Some((done, all, verb)));
        if all > 1 && is_shown() {
            if done < all { show(&format!("{done} of {all} {verb}")) } else { clear() }
        }
    }

    /// What has been done, for a sentence about why it ends here. Empty where that is one thing or none.
    pub fn so_far(&self) -> String {
        match self.counted.get() {
            Some((done, all, verb)) if all > 1 => format!("{done} of {all} were {verb}"),
            _ => String::new(),
        }
    }

    /// Waits for the answer of `server` to a request; `writes` names the request if it changes something.
    pub async fn wait<T>(&self, server: &str, writes: Option<&str>, answer: impl Future<Output = T>) -> T {
        *self.under_way.borrow_mut() = writes.map(str::to_owned);
        let answered = shown(server, answer).await;
        *self.under_way.borrow_mut() = None;
        answered
    }

    /// From now on the command shows what happens, and Ctrl-C is how it ends.
    pub fn follow(&self) {
        self.follows.set(true);
    }

    pub fn follows(&self) -> bool {
        self.follows.get()
    }

    /// What is to be said when Ctrl-C comes now.
    pub fn stopped(&self) -> String {
        let mut parts = vec!["stopped by Ctrl-C".to_owned()];
        parts.extend(Some(self.so_far()).filter(|text| !text.is_empty()));
        if let Some(request) = &*self.under_way.borrow() {
            parts.push(format!("{request} was under way, and whether the server carried it out is not known"));
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

/// Whether there is a terminal on which a line can be written over.
fn is_shown() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Whether a line of progress stands there, unfinished.
static HAS_LINE: AtomicBool = AtomicBool::new(false);

fn show(line: &str) {
    HAS_LINE.store(true, Ordering::Relaxed);
    let _ = write!(io::stderr(), "\r\u{1b}[K{line} ");
}

/// Takes the line of progress away, before anything else is said.
pub fn clear() {
    if HAS_LINE.swap(false, Ordering::Relaxed) {
        let _ = write!(io::stderr(), "\r\u{1b}[K");
    }
}
