//! The queue: order, refusals and evictions.

use openorch_api::user::errors::TOO_MANY_SIGN_INS;

use super::*;
use crate::user::authn::passwords::{hasher::DUMMY_HASH, rules::unicode_forms};

/// A pool whose hashes take 10 ms each, one at a time: 1,000 turns take ten seconds.
fn pool() -> HashQueue {
    let pool = HashQueue::new(SEQUENTIAL);
    pool.cost.store(10_000, Ordering::Relaxed);
    pool
}

fn reserve_many<'a>(pool: &'a HashQueue, purpose: Purpose, network: u8, count: usize) -> Vec<HashSlot<'a>> {
    (0..count).map_while(|_| pool.reserve(purpose, IpAddr::from([192, 0, 2, network])).ok()).collect()
}

fn is_password(place: HashSlot<'_>) -> impl Future<Output = Result<Option<usize>>> {
    place.find_match(unicode_forms("pass"), DUMMY_HASH.into())
}

#[test]
fn a_burst_from_one_address_waits_up_to_ten_seconds_and_the_rest_gets_a_retry_time() {
    let pool = pool();
    let burst = reserve_many(&pool, Purpose::SignIn, 1, 2000);
    assert_eq!(burst.len(), 1001, "the last one waits for ten seconds of turns");
    let refused = || pool.reserve(Purpose::SignIn, IpAddr::from([192, 0, 2, 1])).err().unwrap();
    let retry_times: Vec<i64> = (0..1000).filter_map(|_| refused().retry_after).collect();
    assert_eq!(
        (retry_times[0], retry_times[499], retry_times[999]),
        (1, 6, 11),
        "retry times grow with the number refused: {retry_times:?}"
    );
    // Callers from other networks take turns with the burst, and registrations with sign-ins.
    assert_eq!(reserve_many(&pool, Purpose::SignIn, 2, 1).len(), 1);
    assert_eq!(reserve_many(&pool, Purpose::Registration, 1, 1).len(), 1);
    drop(burst);
    assert_eq!(retry_after_of_refusal(&pool), None, "slots are released and refusals reset");
}

fn retry_after_of_refusal(pool: &HashQueue) -> Option<i64> {
    pool.reserve(Purpose::SignIn, IpAddr::from([192, 0, 2, 1])).err()?.retry_after
}

#[test]
fn slower_hashes_admit_fewer_callers_and_higher_concurrency_admits_more() {
    let pool = pool();
    pool.cost.store(100_000, Ordering::Relaxed);
    assert_eq!(reserve_many(&pool, Purpose::SignIn, 1, 2000).len(), 101);
    let pool = HashQueue::new(HashSettings { concurrency: 4, ..SEQUENTIAL });
    pool.cost.store(100_000, Ordering::Relaxed);
    assert_eq!(reserve_many(&pool, Purpose::SignIn, 1, 2000).len(), 401);
}

#[test]
fn neither_registrations_nor_one_address_take_the_slots_of_others() {
    let pool = pool();
    pool.cost.store(1, Ordering::Relaxed);
    let flood: Vec<_> = (0..100).flat_map(|n| reserve_many(&pool, Purpose::Registration, n, 1000)).collect();
    assert_eq!(pool.queues[Purpose::Registration as usize].state().count, MAX_WAITING);
    let greedy = reserve_many(&pool, Purpose::SignIn, 1, 1000);
    assert_eq!(reserve_many(&pool, Purpose::SignIn, 2, 1).len(), 1, "another address");
    let many: Vec<IpAddr> = (0..500).map(|n| format!("2001:db8::{n:x}").parse().unwrap()).collect();
    let network: Vec<_> = many.iter().filter_map(|address| pool.reserve(Purpose::SignIn, *address).ok()).collect();
    assert_eq!(
        pool.queues[Purpose::SignIn as usize].state().by_network.len(),
        2 * WIDTHS.len(),
        "a /64 counts as one address, and empty networks are removed"
    );
    drop((flood, greedy, network));
    assert_eq!(reserve_many(&pool, Purpose::Registration, 1, 1).len(), 1, "slots are released");
    assert_eq!(pool.queues[Purpose::SignIn as usize].state().by_network.len(), 0, "and empty networks are removed");
}

const SEQUENTIAL: HashSettings = HashSettings { concurrency: 1, max_wait: Duration::from_secs(10) };

#[tokio::test]
async fn a_new_caller_evicts_the_newest_slot_of_the_address_with_the_most() {
    let pool = pool();
    pool.cost.store(1, Ordering::Relaxed);
    let place = |network: u8| pool.reserve(Purpose::SignIn, IpAddr::from([192, 0, 2, network]));
    let mut greedy: Vec<Vec<HashSlot>> =
        (0..4).map(|n| reserve_many(&pool, Purpose::SignIn, n, MAX_WAITING / 4)).collect();
    assert_eq!(pool.queues[Purpose::SignIn as usize].state().count, MAX_WAITING);
    let one_more = place(0).err().unwrap();
    assert_eq!(one_more.code, &TOO_MANY_SIGN_INS, "the network with the most callers gets no more slots");
    let honest = place(9).expect("a caller from another network gets a slot");
    assert_eq!(pool.queues[Purpose::SignIn as usize].state().count, MAX_WAITING);
    let newest = greedy[3].pop().unwrap();
    let refused = is_password(newest).await.unwrap_err();
    assert_eq!(refused.code, &TOO_MANY_SIGN_INS);
    assert_eq!(pool.queues[Purpose::SignIn as usize].state().count, MAX_WAITING, "its slot was already released");
    assert_eq!(is_password(greedy[3].pop().unwrap()).await.unwrap(), None);
    pool.cost.store(1, Ordering::Relaxed);
    drop(place(3).expect("a slot was released"));
    // If all networks have the same number, none is evicted, and a lone caller is safe.
    drop(greedy);
    pool.cost.store(1, Ordering::Relaxed);
    let many = |n: usize| IpAddr::from([198, 51, (n / 256) as u8, (n % 256) as u8]);
    let alone: Vec<_> = (1..MAX_WAITING).map(|n| pool.reserve(Purpose::SignIn, many(n)).ok().unwrap()).collect();
    assert_eq!(pool.queues[Purpose::SignIn as usize].state().count, MAX_WAITING);
    for n in [1, 9999] {
        assert_eq!(pool.reserve(Purpose::SignIn, many(n)).err().unwrap().code, &TOO_MANY_SIGN_INS);
    }
    drop((alone, honest));
    let waiting = pool.queues[Purpose::SignIn as usize].state();
    assert!(waiting.count == 0 && waiting.by_network.is_empty() && waiting.idle.is_empty());
}

#[tokio::test]
async fn a_caller_past_its_deadline_is_refused_and_releases_its_slot() {
    let pool = HashQueue::new(HashSettings { max_wait: Duration::from_millis(1), ..SEQUENTIAL });
    pool.cost.store(1, Ordering::Relaxed);
    let all_wait = pool.workers.acquire().await.unwrap();
    let place = pool.reserve(Purpose::SignIn, IpAddr::from([192, 0, 2, 1])).unwrap();
    assert_eq!(is_password(place).await.unwrap_err().code, &TOO_MANY_SIGN_INS);
    drop(all_wait);
    assert_eq!(pool.queues[Purpose::SignIn as usize].state().count, 0);
}

#[tokio::test]
async fn the_queues_take_turns_regardless_of_arrival_order() {
    let pool = Arc::new(HashQueue::new(SEQUENTIAL));
    let order: Arc<Mutex<Vec<&str>>> = Arc::default();
    let all_wait = pool.workers.acquire().await.unwrap();
    let mut served = tokio::task::JoinSet::new();
    let crowd = [("registration", Purpose::Registration, 1, 20), ("greedy", Purpose::SignIn, 1, 20)];
    for (name, purpose, network, count) in crowd.into_iter().chain([("late", Purpose::SignIn, 2, 1)]) {
        for _ in 0..count {
            let (pool, order) = (pool.clone(), order.clone());
            served.spawn(async move {
                let place = pool.reserve(purpose, IpAddr::from([192, 0, 2, network])).unwrap();
                place.run(move |_| order.lock().unwrap().push(name)).await.unwrap();
            });
            // Each caller is queued before the next.
            tokio::task::yield_now().await;
        }
    }
    drop(all_wait);
    served.join_all().await;
    let order = order.lock().unwrap();
    let at = order.iter().position(|name| *name == "late").unwrap();
    assert!(order.len() == 41 && at < 6, "{at}: {order:?}");
}

fn customer_address(n: u32) -> IpAddr {
    IpAddr::from(Ipv6Addr::from((0x2001_0db8_0001_u128 << 80) | (u128::from(n) << 64)))
}

#[test]
fn w163_strangers_do_not_delay_known_networks_or_this_machine_and_many_networks_of_one_customer_count_as_one() {
    let pool = HashQueue::new(HashSettings { max_wait: Duration::from_secs(1), ..SEQUENTIAL });
    pool.cost.store(10_000, Ordering::Relaxed);
    let place = |purpose: Purpose, address: IpAddr| pool.reserve(purpose, address);
    let strangers: Vec<_> = (0..256).filter_map(|n| place(Purpose::SignIn, customer_address(n)).ok()).collect();
    assert_eq!(strangers.len(), 101, "one customer has the limit of one address");
    let home = IpAddr::from([203, 0, 113, 1]);
    assert!(place(Purpose::SignIn, home).is_ok(), "another network waits for only one of them");
    let alone: Vec<_> = (0..500)
        .filter_map(|n| place(Purpose::SignIn, IpAddr::from([192, 0, (n / 256) as u8, n as u8])).ok())
        .collect();
    assert!(place(Purpose::SignIn, home).is_err(), "unknown networks fill their own queue");
    for purpose in [Purpose::KnownSignIn, Purpose::LocalSignIn, Purpose::Registration] {
        assert!(place(purpose, home).is_ok(), "{purpose:?}");
    }
    drop((strangers, alone));
}

#[test]
fn w163_a_customer_with_many_networks_is_evicted_first_and_its_networks_take_turns() {
    let pool = pool();
    pool.cost.store(1, Ordering::Relaxed);
    let place = |address: IpAddr| pool.reserve(Purpose::SignIn, address);
    // Sixteen in each of 256 /64s of one /56.
    let full = MAX_WAITING as u32;
    let crowd: Vec<_> = (0..full).map(|n| place(customer_address(n % 256)).ok().unwrap()).collect();
    let waiting = || pool.queues[Purpose::SignIn as usize].state();
    assert!(place(IpAddr::from([203, 0, 113, 1])).is_ok(), "another address");
    assert_eq!(waiting().count, MAX_WAITING - 1);
    drop(place(customer_address(0x100)));
    let last = place(customer_address(0)).expect("one slot was released");
    assert!(place(customer_address(0x100)).is_ok(), "another /56 of the same /48");
    drop(last);
    drop(place(customer_address(1)).expect("one slot was released"));
    drop(crowd);
    assert!(waiting().by_network.is_empty() && waiting().idle.is_empty());
}

#[test]
fn turns_of_a_newcomer_are_counted_through_its_networks() {
    let pool = pool();
    let addresses = [0x000, 0x000, 0x000, 0x001, 0x001, 0x100, 0x100, 0x100];
    let mut taken: Vec<_> =
        addresses.iter().map(|n| pool.reserve(Purpose::SignIn, customer_address(*n)).ok().unwrap()).collect();
    taken.extend(reserve_many(&pool, Purpose::SignIn, 1, 5));
    let ahead = |n: u32| pool.queues[Purpose::SignIn as usize].state().turns_ahead(&networks(customer_address(n)));
    // For a new /56, one caller of the other /56 comes first, and for the two /48s one of each.
    assert_eq!(ahead(0x200), 2 + 3, "one of each sibling /56, then three of the IPv4 address");
    assert_eq!(ahead(0x002), 2 + 3 + 5, "one of each /64, three of the /56, all five");
    drop(taken);
    assert_eq!(ahead(0x000), 0);
}
