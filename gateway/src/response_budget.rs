//! The memory budget of responses that clients read slowly: data read from the instance and not yet sent. Slow clients are
//! legitimate, so a response may wait for minutes, but all of them share a budget. Large request heads count too while an
//! instance does not respond.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::{Settings, exchange::Exchange};

/// Milliseconds without progress after which a response counts as unread.
const MIN_UNREAD_MS: u64 = 1000;

/// A client network and its part of the budget.
#[derive(Clone, Copy, Debug)]
pub struct MemoryQuota {
    pub network: IpAddr,
    pub bytes: usize,
    /// Whether it is a client behind a trusted proxy.
    pub is_proxied: bool,
}

/// The quotas of an exchange: that of its address, and that of a client behind a trusted proxy.
pub type MemoryQuotas = [Option<MemoryQuota>; 2];

/// Whether the exchange counts against the budget: it is a request to a service whose response is unread, or whose large
/// head waits for a response.
pub fn is_unread(exchange: &Exchange, now: u64) -> bool {
    exchange.service().is_some() && exchange.buffered_for(now).is_some_and(|time| time >= MIN_UNREAD_MS)
}

/// Selects the exchanges to abort, so that the remaining ones are within the total budget and that of each network. Those
/// unread for longest are aborted first.
pub fn over_budget(mut unread: Vec<Arc<Exchange>>, now: u64, settings: &Settings) -> Vec<Arc<Exchange>> {
    let mut total = 0;
    let mut by_network: HashMap<(IpAddr, bool), usize> = HashMap::new();
    // The most recent ones are kept until the budget is exhausted.
    unread.sort_by_key(|exchange| exchange.buffered_for(now));
    unread.retain(|exchange| {
        let (bytes, quotas) = (exchange.buffered_bytes(), exchange.memory_quotas());
        let has_room = |quota: &MemoryQuota| {
            let used = by_network.get(&(quota.network, quota.is_proxied)).copied().unwrap_or_default();
            used + bytes <= quota.bytes
        };
        let fits = total + bytes <= *settings.forward.max_response_memory && quotas.iter().flatten().all(has_room);
        if fits {
            total += bytes;
            for quota in quotas.iter().flatten() {
                *by_network.entry((quota.network, quota.is_proxied)).or_default() += bytes;
            }
        }
        !fits
    });
    unread
}

#[cfg(test)]
mod tests {
    use openorch_chassis::settings::ByteSize;

    use super::*;
    use crate::{conn_tracker::ConnState, exchange::AbortHandle};

    fn untaken(since: u64, share: Option<(u8, usize)>) -> Arc<Exchange> {
        let share =
            share.map(|(last, bytes)| MemoryQuota { network: [192, 0, 2, last].into(), bytes, is_proxied: false });
        let exchange =
            Exchange::new(AbortHandle::Connection(Arc::new(ConnState::new(0, None))), 0, [share, None], false);
        exchange.start_response(since);
        Arc::new(exchange)
    }

    #[test]
    fn those_untaken_for_longest_end_first_within_an_address_and_in_all() {
        let one = untaken(0, None).buffered_bytes();
        let mut settings = Settings::default();
        settings.forward.max_response_memory = ByteSize(4 * one);
        let since = |ended: Vec<Arc<Exchange>>| {
            ended.iter().map(|exchange| 100 - exchange.unread_for(100).unwrap()).collect::<Vec<_>>()
        };
        let share = |last| Some((last, 2 * one));
        let of_one_address = [30, 10, 20].map(|at| untaken(at, share(1)));
        assert_eq!(since(over_budget(of_one_address.into(), 100, &settings)), [10]);
        let of_several = [(10, share(1)), (20, share(2)), (30, None), (40, None), (50, None), (60, share(1))];
        let ended = over_budget(of_several.map(|(at, share)| untaken(at, share)).into(), 100, &settings);
        assert_eq!(since(ended), [20, 10]);
    }
}
