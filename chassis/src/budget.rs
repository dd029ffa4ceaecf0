//! The memory budget of requests in progress: bodies while they are received and decompressed, the values parsed from them,
//! and responses until the client has read them. If the budget is exhausted, a request waits briefly and is then refused.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use openorch_api::error::platform;
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::Notify, time::Instant};

use crate::{Error, Result, body_reader::LARGE_BYTES, forwarded::client_network, metrics::Registry};

/// The variable of [`BudgetSettings::total`], for error messages.
pub const TOTAL_VARIABLE: &str = "OPENORCH_API_MAX_REQUEST_MEMORY";
/// The variable of [`BudgetSettings::per_address`], for error messages.
pub const PER_ADDRESS_VARIABLE: &str = "OPENORCH_API_MAX_REQUEST_MEMORY_PER_ADDRESS";

/// A part of [`ApiSettings`](crate::router::ApiSettings).
#[derive(Clone, Copy, Debug)]
pub struct BudgetSettings {
    /// Bytes for all requests together.
    pub total: usize,
    /// Bytes for the requests of one client address (an IPv6 address counts as its /64), and of one account, loopback
    /// excepted. A request may exceed it while the address and account have no other.
    pub per_address: usize,
    /// How long a request waits for memory.
    pub wait: Duration,
}

/// The memory budget, shared by all built-in operations.
pub struct MemoryBudget {
    settings: BudgetSettings,
    used: Mutex<Used>,
    freed: Notify,
    refused: Counter,
}

#[derive(Default)]
struct Used {
    total: usize,
    /// Bytes of large bodies that are still being received.
    arriving: usize,
    by_address: HashMap<IpAddr, usize>,
    by_account: HashMap<Arc<str>, usize>,
}

impl Used {
    fn add(&mut self, address: Option<IpAddr>, account: Option<&Arc<str>>, more: usize) {
        self.total += more;
        if let Some(address) = address {
            *self.by_address.entry(address).or_default() += more;
        }
        if let Some(account) = account {
            *self.by_account.entry(account.clone()).or_default() += more;
        }
    }

    fn subtract(&mut self, address: Option<IpAddr>, account: Option<&Arc<str>>, less: usize) {
        self.total -= less;
        if let Some(address) = address {
            subtract_from(&mut self.by_address, &address, less);
        }
        if let Some(account) = account {
            subtract_from(&mut self.by_account, account, less);
        }
    }
}

fn subtract_from<K: Hash + Eq>(shares: &mut HashMap<K, usize>, key: &K, less: usize) {
    if let Some(share) = shares.get_mut(key) {
        *share -= less;
        if *share == 0 {
            shares.remove(key);
        }
    }
}

/// Which part of the budget a request may use: public requests must leave memory for authenticated ones, and all large ones
/// the last quarter to small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetClass {
    /// Half of it, if the request is large.
    Public,
    /// Three quarters of it, if the request is large.
    Authenticated,
}

/// Maximum bytes of a request that may use the last quarter of the budget: a sign-in needs less.
const SMALL_REQUEST: usize = 16 << 10;
/// Divisor: this fraction of the budget is reserved for programs on this machine, whose signed-in requests may use all of
/// it.
const LOCAL_FRACTION: usize = 16;

/// Bytes reserved for one request, released on drop.
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    /// `None` for loopback, which has no per-address limit.
    address: Option<IpAddr>,
    /// `None` for loopback and where there is no caller.
    account: Option<Arc<str>>,
    is_local: bool,
    caller: BudgetClass,
    bytes: usize,
    /// The bytes counted as a large body that is still being received.
    arriving: usize,
}

/// The limit that is reached.
#[derive(Clone, Copy)]
enum ExhaustedLimit {
    Total,
    Address,
    Account,
}

impl MemoryBudget {
    /// A budget of which nothing is reserved yet.
    pub fn new(settings: BudgetSettings) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget { settings, used: Mutex::default(), freed: Notify::new(), refused: Counter::default() })
    }

    /// An empty reservation for a request from this client.
    pub fn reservation(self: &Arc<MemoryBudget>, client: IpAddr, caller: BudgetClass) -> Reservation {
        let address = (!client.to_canonical().is_loopback()).then(|| client_network(client));
        let budget = self.clone();
        Reservation { budget, address, account: None, is_local: false, caller, bytes: 0, arriving: 0 }
    }

    /// Bytes currently reserved.
    pub fn used(&self) -> usize {
        self.lock().total
    }

    /// Registers the metrics: bytes in use, the limit, and refused requests.
    pub fn register(self: &Arc<MemoryBudget>, registry: &Registry) {
        let (budget, total) = (self.clone(), self.settings.total);
        registry
            .gauge("request_memory_bytes", "Memory held by requests in progress", move || Some(budget.used() as u64));
        registry
            .gauge("request_memory_limit_bytes", "Maximum memory of requests in progress", move || Some(total as u64));
        registry.register(
            "request_memory_refused",
            "Requests refused because the memory budget of requests is exhausted",
            self.refused.clone(),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self, full: ExhaustedLimit) -> Error {
        self.refused.inc();
        match full {
            ExhaustedLimit::Total => Error::new(
                &platform::MEMORY_FULL,
                format!(
                    "the memory budget of requests is exhausted ({TOTAL_VARIABLE}: {} bytes); try again in a moment",
                    self.settings.total
                ),
            ),
            ExhaustedLimit::Address => self.share_refusal("from your network"),
            ExhaustedLimit::Account => self.share_refusal("of the account"),
        }
    }

    fn share_refusal(&self, whose: &str) -> Error {
        Error::new(
            &platform::MEMORY_SHARE_FULL,
            format!(
                "the memory budget of requests {whose} is exhausted ({PER_ADDRESS_VARIABLE}: {} bytes); try again when some \
                 of them have ended",
                self.settings.per_address
            ),
        )
    }
}

impl Reservation {
    /// For a request of this account.
    pub fn of_account(mut self, account: Option<Arc<str>>) -> Reservation {
        self.account = account.filter(|_| self.address.is_some());
        self
    }

    /// For a request that may come from a program on this machine: see [`crate::local`].
    pub fn of_local(mut self, is_so: bool) -> Reservation {
        self.is_local = is_so;
        self
    }

    /// Reserves more bytes, and waits for memory if there is none.
    pub async fn grow(&mut self, more: usize) -> Result<()> {
        self.wait_for(more, false).await
    }

    /// Like [`Reservation::grow`], for a body that is still being received: all large ones together may use half of the
    /// budget, since their clients decide how long they take.
    pub async fn grow_arriving(&mut self, more: usize) -> Result<()> {
        self.wait_for(more, true).await
    }

    /// The body was received.
    pub fn arrived(&mut self) {
        let arriving = std::mem::take(&mut self.arriving);
        if arriving > 0 {
            self.budget.lock().arriving -= arriving;
            self.budget.freed.notify_waiters();
        }
    }

    async fn wait_for(&mut self, more: usize, is_arriving: bool) -> Result<()> {
        let deadline = Instant::now() + self.budget.settings.wait;
        let budget = self.budget.clone();
        loop {
            let freed = budget.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // Register the waiter before the check, so that a release in between is not missed.
            freed.as_mut().enable();
            let Err(full) = self.try_grow(more, is_arriving) else { return Ok(()) };
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(budget.refusal(full));
            }
        }
    }

    /// Reserves bytes for data that is already in memory. Fails without waiting, since the data would stay in memory
    /// meanwhile.
    pub fn grow_now(&mut self, more: usize) -> Result<()> {
        self.try_grow(more, false).map_err(|full| self.budget.refusal(full))
    }

    /// Reserves bytes even beyond the budget, for data that cannot be refused any more.
    pub fn grow_unchecked(&mut self, more: usize) {
        self.budget.lock().add(self.address, self.account.as_ref(), more);
        self.bytes += more;
    }

    fn try_grow(&mut self, more: usize, is_arriving: bool) -> Result<(), ExhaustedLimit> {
        if more == 0 {
            return Ok(());
        }
        let BudgetSettings { total, per_address, .. } = self.budget.settings;
        let mut used = self.budget.lock();
        let is_small = self.bytes.saturating_add(more) <= SMALL_REQUEST;
        let max = match self.caller {
            BudgetClass::Public if !is_small => total / 2,
            _ if self.is_local => total,
            _ if is_small => total - total / LOCAL_FRACTION,
            BudgetClass::Public | BudgetClass::Authenticated => total / 4 * 3,
        };
        let is_counted = is_arriving && !self.is_local && self.bytes.saturating_add(more) > LARGE_BYTES;
        let arriving = if is_counted { (self.bytes + more).saturating_sub(self.arriving) } else { 0 };
        if used.total.saturating_add(more) > max || arriving > 0 && used.arriving + arriving > total / 2 {
            return Err(ExhaustedLimit::Total);
        }
        let exceeds = |share: Option<&usize>| {
            let share = share.copied().unwrap_or_default();
            // A request may exceed the limit while there is no other.
            share != self.bytes && share.saturating_add(more) > per_address
        };
        if self.address.as_ref().is_some_and(|address| exceeds(used.by_address.get(address))) {
            return Err(ExhaustedLimit::Address);
        }
        if self.account.as_ref().is_some_and(|account| exceeds(used.by_account.get(account))) {
            return Err(ExhaustedLimit::Account);
        }
        used.add(self.address, self.account.as_ref(), more);
        used.arriving += arriving;
        drop(used);
        self.bytes += more;
        self.arriving += arriving;
        Ok(())
    }

    /// Releases bytes that are not needed any more.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less == 0 {
            return;
        }
        self.bytes -= less;
        self.budget.lock().subtract(self.address, self.account.as_ref(), less);
        self.budget.freed.notify_waiters();
    }

    /// The number of reserved bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Attaches the reservation to these bytes: it is released when the last slice of them is dropped.
    pub fn attach_to(self, bytes: Bytes) -> Bytes {
        struct Held {
            bytes: Bytes,
            _reservation: Reservation,
        }
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        Bytes::from_owner(Held { bytes, _reservation: self })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.arrived();
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<MemoryBudget> {
        MemoryBudget::new(BudgetSettings { total: 160, per_address: 40, wait: Duration::from_millis(200) })
    }

    fn from(budget: &Arc<MemoryBudget>, address: &str) -> Reservation {
        let address: IpAddr = address.parse().unwrap();
        budget.reservation(address, BudgetClass::Authenticated).of_local(address.is_loopback())
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_a_share_and_all_together_a_total() {
        let budget = budget();
        let (mut a, mut b) = (from(&budget, "2001:db8::1"), from(&budget, "2001:db8::2"));
        // The only request of an address may exceed the limit, so that the limit never forbids the largest request.
        a.grow(50).await.unwrap();
        let refused = b.grow(1).await.unwrap_err();
        assert!(refused.message.contains(PER_ADDRESS_VARIABLE), "{refused}");
        let mut c = from(&budget, "192.0.2.1");
        c.grow(100).await.unwrap();
        let refused = from(&budget, "192.0.2.2").grow(1).await.unwrap_err();
        assert!(refused.message.contains(TOTAL_VARIABLE), "{refused}");
        from(&budget, "127.0.0.1").grow(10).await.unwrap();
        let refused = from(&budget, "127.0.0.1").grow(11).await.unwrap_err();
        assert!(refused.message.contains(TOTAL_VARIABLE), "{refused}");
        drop(a);
        b.grow(1).await.unwrap();
        assert_eq!((budget.used(), b.bytes()), (101, 1));
        drop((b, c));
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().by_address.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_account_has_a_share_wherever_it_is() {
        let budget = budget();
        let of = |address: &str, account: &str| from(&budget, address).of_account(Some(account.into()));
        let (mut a, mut b) = (of("192.0.2.1", "ann"), of("192.0.2.2", "ann"));
        a.grow(30).await.unwrap();
        let refused = b.grow(11).await.unwrap_err();
        assert!(refused.message.contains("of the account"), "{refused}");
        b.grow(10).await.unwrap();
        of("192.0.2.2", "bob").grow(11).await.unwrap();
        of("127.0.0.1", "ann").grow(50).await.unwrap();
        drop((a, b));
        assert!(budget.lock().by_account.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_that_are_being_received_have_half_of_it() {
        let total = 8 * LARGE_BYTES;
        let budget = MemoryBudget::new(BudgetSettings { total, per_address: total, wait: Duration::from_millis(1) });
        let mut bodies = [from(&budget, "192.0.2.1"), from(&budget, "192.0.2.2"), from(&budget, "192.0.2.3")];
        bodies[0].grow_arriving(LARGE_BYTES).await.unwrap();
        bodies[0].grow_arriving(LARGE_BYTES).await.unwrap();
        bodies[1].grow_arriving(2 * LARGE_BYTES).await.unwrap();
        assert!(bodies[2].grow_arriving(LARGE_BYTES + 1).await.is_err());
        bodies[2].grow_arriving(LARGE_BYTES).await.unwrap();
        from(&budget, "127.0.0.1").grow_arriving(2 * LARGE_BYTES).await.unwrap();
        bodies[1].arrived();
        bodies[2].grow_arriving(1).await.unwrap();
        assert_eq!(budget.lock().arriving, 3 * LARGE_BYTES + 1);
        drop(bodies);
        assert_eq!(budget.lock().arriving, 0);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_is_freed() {
        let budget = budget();
        let mut first = from(&budget, "127.0.0.1");
        first.grow(160).await.unwrap();
        let held = first.attach_to(Bytes::from_static(b"answer"));
        let mut second = from(&budget, "127.0.0.1");
        let (slice, ()) = (held.slice(2..3), drop(held));
        let (grown, ()) = tokio::join!(second.grow(10), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(slice);
        });
        grown.unwrap();
        assert_eq!(budget.used(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_anybody_can_send_leaves_room_for_small_and_for_authenticated_requests() {
        let total = 16 * SMALL_REQUEST;
        let settings = BudgetSettings { total, per_address: total, wait: Duration::from_millis(1) };
        let budget = MemoryBudget::new(settings);
        let of = |caller| budget.reservation("192.0.2.1".parse().unwrap(), caller);
        let mut large = [of(BudgetClass::Public), of(BudgetClass::Authenticated)];
        large[0].grow(total / 2).await.unwrap();
        assert!(large[0].grow(1).await.is_err());
        large[1].grow(total / 4).await.unwrap();
        assert!(large[1].grow(1).await.is_err());
        let mut small =
            [of(BudgetClass::Public), of(BudgetClass::Public), of(BudgetClass::Authenticated), of(BudgetClass::Public)];
        for small in &mut small[..3] {
            small.grow(SMALL_REQUEST).await.unwrap();
        }
        assert!(small[3].grow(SMALL_REQUEST).await.is_err());
        of(BudgetClass::Public).of_local(true).grow(SMALL_REQUEST).await.unwrap();
    }
}
