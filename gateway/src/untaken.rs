//! What answers hold that the client does not take: pieces read from the instance, and those on their way to the client. A
//! slow client is nothing bad, so that answers wait for minutes; all together they have a budget.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::{Settings, exchange::Exchange};

/// From so many milliseconds on an answer counts as untaken.
const SHORTEST: u64 = 1000;

/// Whose answer it is, and what of the budget that address may have.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub network: IpAddr,
    pub bytes: usize,
}

/// Whether this one counts.
pub fn is_untaken(exchange: &Exchange, now: u64) -> bool {
    exchange.service().is_some() && exchange.untaken_for(now).is_some_and(|time| time >= SHORTEST)
}

/// Those of these untaken answers to end, so that what is left is within the budget of each address and of all. Those
/// untaken for longest end first.
pub fn beyond_budget(mut untaken: Vec<Arc<Exchange>>, now: u64, settings: &Settings) -> Vec<Arc<Exchange>> {
    let mut total = 0;
    let mut by_network: HashMap<IpAddr, usize> = HashMap::new();
    // The newest are let pass until the budget is used up.
    untaken.sort_by_key(|exchange| exchange.untaken_for(now));
    untaken.retain(|exchange| {
        let bytes = exchange.held_bytes();
        let of_network = exchange.share().map(|share| (by_network.entry(share.network).or_default(), share.bytes));
        let fits = total + bytes <= *settings.forward.max_response_memory
            && of_network.as_ref().is_none_or(|(held, most)| **held + bytes <= *most);
        if fits {
            total += bytes;
            if let Some((held, _)) = of_network {
                *held += bytes;
            }
        }
        !fits
    });
    untaken
}

#[cfg(test)]
mod tests {
    use openorch_chassis::settings::ByteSize;

    use super::*;
    use crate::{exchange::Handle, life::Life};

    fn untaken(since: u64, share: Option<(u8, usize)>) -> Arc<Exchange> {
        let share = share.map(|(last, bytes)| Share { network: [192, 0, 2, last].into(), bytes });
        let exchange = Exchange::new(Handle::Connection(Arc::new(Life::new(0, None))), 0, share, false);
        exchange.offer(since);
        Arc::new(exchange)
    }

    #[test]
    fn those_untaken_for_longest_end_first_within_an_address_and_in_all() {
        let one = untaken(0, None).held_bytes();
        let mut settings = Settings::default();
        settings.forward.max_response_memory = ByteSize(4 * one);
        let since = |ended: Vec<Arc<Exchange>>| {
            ended.iter().map(|exchange| 100 - exchange.untaken_for(100).unwrap()).collect::<Vec<_>>()
        };
        let share = |last| Some((last, 2 * one));
        let of_one_address = [30, 10, 20].map(|at| untaken(at, share(1)));
        assert_eq!(since(beyond_budget(of_one_address.into(), 100, &settings)), [10]);
        let of_several = [(10, share(1)), (20, share(2)), (30, None), (40, None), (50, None), (60, share(1))];
        let ended = beyond_budget(of_several.map(|(at, share)| untaken(at, share)).into(), 100, &settings);
        assert_eq!(since(ended), [20, 10]);
    }
}
