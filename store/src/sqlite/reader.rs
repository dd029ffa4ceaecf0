//! The readers: a few threads with a connection each, made when there is work and gone when there has been none for a
//! while, so that an idle daemon keeps neither.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::errors::from_sqlite;
use super::folder::Folder;
use crate::{Result, StoreError};

/// How long a thread waits for more before it ends.
const IDLE: Duration = Duration::from_secs(20);

/// The threads that read.
pub(super) struct Readers {
    shared: Arc<Shared>,
}

struct Shared {
    folder: Arc<Folder>,
    most: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    waiting: usize,
    closed: bool,
    handles: Vec<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(Result<&Connection>) + Send>;

impl Readers {
    pub(super) fn new(folder: Arc<Folder>, most: usize) -> Self {
        let shared = Shared { folder, most: most.max(1), state: Mutex::new(State::default()), wake: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `read` on one of the threads. It gets a way to ask whether the answer is still wanted.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &dyn Fn() -> bool) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.submit(Box::new(move |connection| {
            if reply.is_closed() {
                return;
            }
            let result = connection.and_then(|connection| read(connection, &|| reply.is_closed()));
            // An answer that nobody waits for any more is dropped.
            let _ = reply.send(result);
        }))?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Internal("a reader ended without an answer".into())))
    }

    fn submit(&self, job: Job) -> Result<()> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(closed());
        }
        state.queue.push_back(job);
        if state.queue.len() > state.waiting && state.threads < self.shared.most {
            state.handles.retain(|handle| !handle.is_finished());
            let shared = self.shared.clone();
            match std::thread::Builder::new().name("store-reader".into()).spawn(move || shared.work()) {
                Ok(handle) => {
                    state.handles.push(handle);
                    state.threads += 1;
                }
                Err(error) if state.threads == 0 => {
                    state.queue.pop_back();
                    return Err(StoreError::Unavailable(format!("no thread can be started for reading: {error}")));
                }
                Err(_) => {}
            }
        }
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Finishes what was asked and ends the threads.
    pub(super) fn close(&self) {
        let handles = {
            let mut state = self.shared.state();
            state.closed = true;
            std::mem::take(&mut state.handles)
        };
        self.shared.wake.notify_all();
        for handle in handles {
            // A reader that panicked has nothing left to finish.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(self: Arc<Self>) {
        let mut connection = None;
        while let Some(job) = self.next() {
            if connection.is_none() {
                match connect(&self.folder) {
                    Ok(opened) => connection = Some(opened),
                    Err(error) => {
                        job(Err(error));
                        continue;
                    }
                }
            }
            if let Some(open) = &connection {
                // A read that panics answers nobody; the thread goes on, with a connection that is not in its middle.
                if catch_unwind(AssertUnwindSafe(|| job(Ok(open)))).is_err() {
                    connection = None;
                }
            }
        }
    }

    /// The next job; none when the thread is to end, which is counted here, under the same lock: whoever asks next
    /// must not rely on a thread that is leaving.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            state.waiting += 1;
            let (guard, time) = self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting -= 1;
            if time.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

fn connect(folder: &Folder) -> Result<Connection> {
    let connection = folder.connect()?;
    connection.set_prepared_statement_cache_capacity(64);
    connection
        .execute_batch(
            "PRAGMA query_only = 1; PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -2048;",
        )
        .map_err(|error| from_sqlite(error, "opening a reader"))?;
    Ok(connection)
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_that_panics_fails_alone() {
        let temp = tempfile::tempdir().unwrap();
        let readers = Readers::new(Arc::new(Folder::open(temp.path()).unwrap()), 1);
        let broken = readers.run(|_, _| -> Result<()> { panic!("on purpose") }).await;
        assert!(matches!(broken, Err(StoreError::Internal(_))));
        assert_eq!(readers.run(|_, _| Ok(1)).await, Ok(1));
        readers.close();
        assert_eq!(readers.run(|_, _| Ok(1)).await, Err(closed()));
    }

    #[tokio::test]
    async fn threads_come_with_the_work_and_never_more_than_said() {
        let temp = tempfile::tempdir().unwrap();
        let readers = Arc::new(Readers::new(Arc::new(Folder::open(temp.path()).unwrap()), 2));
        assert_eq!(readers.shared.state().threads, 0);
        let tasks: Vec<_> = (0..50)
            .map(|i| {
                let readers = readers.clone();
                tokio::spawn(async move { readers.run(move |_, _| Ok(i)).await })
            })
            .collect();
        for (i, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), Ok(i));
        }
        assert!((1..=2).contains(&readers.shared.state().threads));
        readers.close();
        assert_eq!(readers.shared.state().threads, 0);
    }
}
