//! Long work: lists that may be long, and heavy writes. Both run on blocking threads, a few at once, in turns: first networks,
//! then the accounts within each. Lists do not wait behind writes, and admins and programs on this machine wait behind neither.
//! How many calls of one account or network wait, and for how long, is limited, since each holds a request and its memory.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openorch_api::{
    Row,
    error::{access, platform},
};
use tokio::{runtime::Handle, time::timeout};
use tracing::{Instrument, Span};

use crate::{
    Caller, Error, Result,
    forwarded::network,
    turns::{Asker, Turn, Turns},
};

/// Minimum concurrency of lists: a task that waits for the store must not delay all others. Heavy writes have half of it.
const MIN_AT_ONCE: usize = 4;
/// Maximum number of waiting calls of one account, of lists and of heavy writes each.
const MAX_WAITING_PER_ACCOUNT: usize = 64;
/// Maximum number of waiting calls of one client network, of lists and of heavy writes each.
const MAX_WAITING_PER_NETWORK: usize = 256;
/// Maximum time that a call waits.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Retry time returned to refused callers, in seconds.
const RETRY_AFTER: i64 = 1;

/// The long work of a service.
pub(super) struct LongWork {
    lists: Lane,
    writes: Lane,
}

/// One kind of long work.
#[derive(Clone)]
pub(crate) struct Lane {
    turns: Turns<Asker>,
    /// Of admins and programs on this machine, shared by both kinds.
    operators: Turns<Asker>,
    waiting: Arc<Waiting>,
}

/// The number of waiting calls of each account and network.
#[derive(Default)]
struct Waiting(Mutex<HashMap<Asker, usize>>);

/// A waiting call, counted until it is dropped.
struct Place<'a> {
    waiting: &'a Waiting,
    askers: Vec<Asker>,
}

impl LongWork {
    pub(super) fn new() -> LongWork {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).max(MIN_AT_ONCE);
        let operators = Turns::new(at_once);
        let lane = |at_once| Lane { turns: Turns::new(at_once), operators: operators.clone(), waiting: Arc::default() };
        LongWork { lists: lane(at_once), writes: lane(at_once / 2) }
    }

    /// The lane of an operation; `None` if its calls are short.
    pub(super) fn lane(&self, row: &Row) -> Option<Lane> {
        match (row.heavy, row.long_answer) {
            (true, _) => Some(self.writes.clone()),
            (false, true) => Some(self.lists.clone()),
            (false, false) => None,
        }
    }
}

impl Lane {
    /// Waits for the turn of a call.
    pub(crate) async fn take(
        &self,
        caller: Option<&Caller>,
        client: IpAddr,
        from_this_machine: bool,
    ) -> Result<Turn<Asker>> {
        let path = || Asker::path(client, caller.map(|caller| &caller.user_id));
        // A service that calls with an admin's delegated token is not the admin.
        if from_this_machine || caller.is_some_and(|caller| caller.is_admin() && caller.audience.is_none()) {
            return Ok(self.operators.take_within(path).await);
        }
        let account = caller.map(|caller| Asker::Account(caller.user_id.clone()));
        let place = self.waiting.enter(account, Asker::Network(network(client)))?;
        let turn = timeout(MAX_WAIT, self.turns.take_within(path)).await;
        drop(place);
        turn.map_err(|_| {
            let seconds = MAX_WAIT.as_secs();
            let sentence = format!("the call waited for {seconds} s behind other long calls; try again in a moment");
            Error::new(&platform::WAITED_TOO_LONG, sentence).after(RETRY_AFTER)
        })
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<Asker, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, account: Option<Asker>, network: Asker) -> Result<Place<'_>> {
        let mut counts = self.lock();
        let refuse = |asker: &Asker, most: usize, of: &str| {
            match counts.get(asker).is_some_and(|count| *count >= most) {
            false => Ok(()),
            true => Err(Error::new(
                &access::TOO_MANY_WAITING,
                format!(
                    "{most} long calls of {of} are already waiting, the maximum; try again in {RETRY_AFTER} s, and make fewer \
                     of them at once"
                ),
            )
            .after(RETRY_AFTER)),
        }
        };
        if let Some(account) = &account {
            refuse(account, MAX_WAITING_PER_ACCOUNT, "the account")?;
        }
        refuse(&network, MAX_WAITING_PER_NETWORK, "your network")?;
        let askers: Vec<Asker> = account.into_iter().chain([network]).collect();
        for asker in &askers {
            *counts.entry(asker.clone()).or_default() += 1;
        }
        drop(counts);
        Ok(Place { waiting: self, askers })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.waiting.lock();
        for asker in &self.askers {
            let Some(count) = counts.get_mut(asker) else { continue };
            *count -= 1;
            if *count == 0 {
                counts.remove(asker);
            }
        }
    }
}

/// Runs the work on a blocking thread. The permit is released when the work ends, even if its future was dropped before.
pub(super) async fn run_beside<T: Send + 'static>(
    turn: Turn<Asker>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (runtime, work) = (Handle::current(), work.instrument(Span::current()));
    let work = async move {
        let _turn = turn;
        work.await
    };
    tokio::task::spawn_blocking(move || runtime.block_on(work)).await.map_err(Error::internal)?
}
