//! Queues for long work: lists that may be long, and heavy writes. A few calls run at once, on blocking threads, and waiting
//! calls are served round-robin among networks, then among the accounts within each. Lists and writes have separate queues;
//! admins and programs on this machine have another. The number of waiting calls of one account or network and their waiting
//! time are limited, since each holds a request and its memory.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openorch_api::{
    Operation,
    error::{access, platform},
};
use tokio::{runtime::Handle, time::timeout};
use tracing::{Instrument, Span};

use crate::{
    Caller, Error, Result,
    fair_semaphore::{FairPermit, FairSemaphore, Requester},
    forwarded::client_network,
};

/// Minimum concurrency of lists: a task that waits for the store must not delay all others. Heavy writes have half of it.
const MIN_CONCURRENCY: usize = 4;
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
    lists: WorkQueue,
    writes: WorkQueue,
}

/// One kind of long work.
#[derive(Clone)]
pub(crate) struct WorkQueue {
    semaphore: FairSemaphore<Requester>,
    /// For admins and programs on this machine, shared by both kinds of work.
    operators: FairSemaphore<Requester>,
    waiting: Arc<WaitingCounts>,
}

/// The number of waiting calls of each account and network.
#[derive(Default)]
struct WaitingCounts(Mutex<HashMap<Requester, usize>>);

/// A waiting call, counted until it is dropped.
struct WaitingSlot<'a> {
    waiting: &'a WaitingCounts,
    requesters: Vec<Requester>,
}

impl LongWork {
    pub(super) fn new() -> LongWork {
        let concurrency = std::thread::available_parallelism().map_or(1, usize::from).max(MIN_CONCURRENCY);
        let operators = FairSemaphore::new(concurrency);
        let queue = |concurrency| WorkQueue {
            semaphore: FairSemaphore::new(concurrency),
            operators: operators.clone(),
            waiting: Arc::default(),
        };
        LongWork { lists: queue(concurrency), writes: queue(concurrency / 2) }
    }

    /// The queue of an operation; `None` if its calls are short.
    pub(super) fn queue(&self, row: &Operation) -> Option<WorkQueue> {
        match (row.heavy, row.long_response) {
            (true, _) => Some(self.writes.clone()),
            (false, true) => Some(self.lists.clone()),
            (false, false) => None,
        }
    }
}

impl WorkQueue {
    /// Waits for the turn of a call.
    pub(crate) async fn acquire(
        &self,
        caller: Option<&Caller>,
        client: IpAddr,
        is_local: bool,
    ) -> Result<FairPermit<Requester>> {
        let path = || Requester::path(client, caller.map(|caller| &caller.user_id));
        // A service that calls with an admin's delegated token is not the admin.
        if is_local || caller.is_some_and(|caller| caller.is_admin() && caller.audience.is_none()) {
            return Ok(self.operators.acquire_nested(path).await);
        }
        let account = caller.map(|caller| Requester::Account(caller.user_id.clone()));
        let slot = self.waiting.enter(account, Requester::Network(client_network(client)))?;
        let permit = timeout(MAX_WAIT, self.semaphore.acquire_nested(path)).await;
        drop(slot);
        permit.map_err(|_| {
            let seconds = MAX_WAIT.as_secs();
            let sentence = format!("the call waited for {seconds} s behind other long calls; try again in a moment");
            Error::new(&platform::WAITED_TOO_LONG, sentence).with_retry_after(RETRY_AFTER)
        })
    }
}

impl WaitingCounts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Requester, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, account: Option<Requester>, network: Requester) -> Result<WaitingSlot<'_>> {
        let mut counts = self.lock();
        let check = |requester: &Requester, max: usize, whose: &str| {
            if counts.get(requester).is_none_or(|count| *count < max) {
                return Ok(());
            }
            let sentence = format!(
                "the maximum of {max} long calls of {whose} are already waiting; try again in {RETRY_AFTER} s, and make \
                 fewer of them at once"
            );
            Err(Error::new(&access::TOO_MANY_WAITING, sentence).with_retry_after(RETRY_AFTER))
        };
        if let Some(account) = &account {
            check(account, MAX_WAITING_PER_ACCOUNT, "the account")?;
        }
        check(&network, MAX_WAITING_PER_NETWORK, "your network")?;
        let requesters: Vec<Requester> = account.into_iter().chain([network]).collect();
        for requester in &requesters {
            *counts.entry(requester.clone()).or_default() += 1;
        }
        drop(counts);
        Ok(WaitingSlot { waiting: self, requesters })
    }
}

impl Drop for WaitingSlot<'_> {
    fn drop(&mut self) {
        let mut counts = self.waiting.lock();
        for requester in &self.requesters {
            let Some(count) = counts.get_mut(requester) else { continue };
            *count -= 1;
            if *count == 0 {
                counts.remove(requester);
            }
        }
    }
}

/// Runs the work on a blocking thread. The permit is released when the work ends, even if its future was dropped before.
pub(super) async fn run_blocking<T: Send + 'static>(
    permit: FairPermit<Requester>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (runtime, work) = (Handle::current(), work.instrument(Span::current()));
    let work = async move {
        let _permit = permit;
        work.await
    };
    tokio::task::spawn_blocking(move || runtime.block_on(work)).await.map_err(Error::internal)?
}
