//! The memory budget of requests in progress: bodies while they are received and decompressed, the values parsed from them,
//! and responses until the client has read them. If the budget is exhausted, a request waits briefly and is then refused.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use openorch_api::error::platform;
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::Notify, time::Instant};

use crate::{Error, Result, forwarded::client_network, metrics::Registry};

/// The variable of [`BudgetSettings::total`], for error messages.
pub const TOTAL_VARIABLE: &str = "OPENORCH_API_MAX_REQUEST_MEMORY";
/// The variable of [`BudgetSettings::per_address`], for error messages.
pub const PER_ADDRESS_VARIABLE: &str = "OPENORCH_API_MAX_REQUEST_MEMORY_PER_ADDRESS";

/// A part of [`ApiSettings`](crate::router::ApiSettings).
#[derive(Clone, Copy, Debug)]
pub struct BudgetSettings {
    /// Bytes for all requests together.
    pub total: usize,
    /// Bytes for the requests of one client address (an IPv6 address counts as its /64), loopback excepted. The only request
    /// of an address may exceed it.
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
    by_address: HashMap<IpAddr, usize>,
}

impl Used {
    fn add(&mut self, address: Option<IpAddr>, more: usize) {
        self.total += more;
        if let Some(address) = address {
            *self.by_address.entry(address).or_default() += more;
        }
    }

    fn subtract(&mut self, address: Option<IpAddr>, less: usize) {
        self.total -= less;
        if let Some(address) = address
            && let Some(of_address) = self.by_address.get_mut(&address)
        {
            *of_address -= less;
            if *of_address == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

/// Which part of the budget a request may use: public requests must leave memory for authenticated ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetClass {
    /// Half of it, or three quarters for requests of at most [`SMALL_REQUEST`] bytes.
    Public,
    /// All of it.
    Authenticated,
}

/// Maximum bytes of a public request that may use three quarters of the budget: a sign-in needs less.
const SMALL_REQUEST: usize = 16 << 10;

/// Bytes reserved for one request, released on drop.
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    /// `None` for loopback, which has no per-address limit.
    address: Option<IpAddr>,
    caller: BudgetClass,
    bytes: usize,
}

/// The limit that is reached.
#[derive(Clone, Copy)]
enum ExhaustedLimit {
    Total,
    Address,
}

impl MemoryBudget {
    pub fn new(settings: BudgetSettings) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget { settings, used: Mutex::default(), freed: Notify::new(), refused: Counter::default() })
    }

    /// An empty reservation for a request from this client.
    pub fn reservation(self: &Arc<MemoryBudget>, client: IpAddr, caller: BudgetClass) -> Reservation {
        let address = (!client.to_canonical().is_loopback()).then(|| client_network(client));
        Reservation { budget: self.clone(), address, caller, bytes: 0 }
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
            ExhaustedLimit::Address => Error::new(
                &platform::MEMORY_SHARE_FULL,
                format!(
                    "the memory budget of requests from your network is exhausted ({PER_ADDRESS_VARIABLE}: {} bytes); try \
                     again when some of them have ended",
                    self.settings.per_address
                ),
            ),
        }
    }
}

impl Reservation {
    /// Reserves more bytes, and waits for memory if there is none.
    pub async fn grow(&mut self, more: usize) -> Result<()> {
        let deadline = Instant::now() + self.budget.settings.wait;
        let budget = self.budget.clone();
        loop {
            let freed = budget.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // Register the waiter before the check, so that a release in between is not missed.
            freed.as_mut().enable();
            let Err(full) = self.try_grow(more) else { return Ok(()) };
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(budget.refusal(full));
            }
        }
    }

    /// Reserves bytes for data that is already in memory. Fails without waiting, since the data would stay in memory
    /// meanwhile.
    pub fn grow_now(&mut self, more: usize) -> Result<()> {
        self.try_grow(more).map_err(|full| self.budget.refusal(full))
    }

    /// Reserves bytes even beyond the budget, for data that cannot be refused any more.
    pub fn grow_unchecked(&mut self, more: usize) {
        self.budget.lock().add(self.address, more);
        self.bytes += more;
    }

    fn try_grow(&mut self, more: usize) -> Result<(), ExhaustedLimit> {
        if more == 0 {
            return Ok(());
        }
        let settings = self.budget.settings;
        let mut used = self.budget.lock();
        let max = match self.caller {
            BudgetClass::Authenticated => settings.total,
            BudgetClass::Public if self.bytes + more <= SMALL_REQUEST => settings.total / 4 * 3,
            BudgetClass::Public => settings.total / 2,
        };
        if used.total.saturating_add(more) > max {
            return Err(ExhaustedLimit::Total);
        }
        if let Some(address) = self.address {
            let of_address = used.by_address.get(&address).copied().unwrap_or_default();
            let is_alone = of_address == self.bytes;
            if !is_alone && of_address.saturating_add(more) > settings.per_address {
                return Err(ExhaustedLimit::Address);
            }
        }
        used.add(self.address, more);
        drop(used);
        self.bytes += more;
        Ok(())
    }

    /// Releases bytes that are not needed any more.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less == 0 {
            return;
        }
        self.bytes -= less;
        self.budget.lock().subtract(self.address, less);
        self.budget.freed.notify_waiters();
    }

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
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<MemoryBudget> {
        MemoryBudget::new(BudgetSettings { total: 100, per_address: 40, wait: Duration::from_millis(200) })
    }

    fn from(budget: &Arc<MemoryBudget>, address: &str) -> Reservation {
        budget.reservation(address.parse().unwrap(), BudgetClass::Authenticated)
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
        c.grow(50).await.unwrap();
        let refused = from(&budget, "127.0.0.1").grow(1).await.unwrap_err();
        assert!(refused.message.contains(TOTAL_VARIABLE), "{refused}");
        drop(a);
        b.grow(1).await.unwrap();
        assert_eq!((budget.used(), b.bytes()), (51, 1));
        drop((b, c));
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().by_address.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_is_freed() {
        let budget = budget();
        let mut first = from(&budget, "127.0.0.1");
        first.grow(100).await.unwrap();
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
        let total = 8 * SMALL_REQUEST;
        let settings = BudgetSettings { total, per_address: total, wait: Duration::from_millis(1) };
        let budget = MemoryBudget::new(settings);
        let of = |caller| budget.reservation("127.0.0.1".parse().unwrap(), caller);
        let mut large = of(BudgetClass::Public);
        large.grow(total / 2).await.unwrap();
        assert!(large.grow(1).await.is_err());
        let mut small = [of(BudgetClass::Public), of(BudgetClass::Public), of(BudgetClass::Public)];
        small[0].grow(SMALL_REQUEST).await.unwrap();
        small[1].grow(SMALL_REQUEST).await.unwrap();
        assert!(small[2].grow(SMALL_REQUEST).await.is_err());
        of(BudgetClass::Authenticated).grow(2 * SMALL_REQUEST).await.unwrap();
    }
}
