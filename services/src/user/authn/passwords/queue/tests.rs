//! The queue: order, refusals and evictions.

use openorch_api::user::errors::TOO_MANY_SIGN_INS;

use super::*;
use crate::user::authn::passwords::{hasher::HASH_OF_NOBODY, rules::spellings};

/// A pool whose hashes take 10 ms each, one at a time: 1,000 turns take ten seconds.
fn pool() -> HashQueue {
    let pool = HashQueue::new(ONE_AT_ONCE);
    pool.cost.store(10_000, Ordering::Relaxed);
    pool
}

fn places<'a>(pool: &'a HashQueue, purpose: Purpose, network: u8, count: usize) -> Vec<Place<'a>> {
    (0..count).map_while(|_| pool.place(purpose, IpAddr::from([192, 0, 2, network])).ok()).collect()
}

fn is_password(place: Place<'_>) -> impl Future<Output = Result<Option<usize>>> {
    place.find(spellings("pass"), HASH_OF_NOBODY.into())
}

#[test]
fn a_burst_from_one_address_waits_up_to_ten_seconds_and_what_is_beyond_is_told_when_to_come_back() {
    let pool = pool();
    let burst = places(&pool, Purpose::SignIn, 1, 2000);
    assert_eq!(burst.len(), 1001, "the last one waits for ten seconds of turns");
    let refused = || pool.place(Purpose::SignIn, IpAddr::from([192, 0, 2, 1])).err().unwrap();
    let told: Vec<i64> = (0..1000).filter_map(|_| refused().retry_after).collect();
    assert_eq!((told[0], told[499], told[999]), (1, 6, 11), "retry times grow with the number refused: {told:?}");
    // Callers from other networks take turns with the burst, and registrations with sign-ins.
    assert_eq!(places(&pool, Purpose::SignIn, 2, 1).len(), 1);
    assert_eq!(places(&pool, Purpose::Registration, 1, 1).len(), 1);
    drop(burst);
    assert_eq!(refused_after(&pool), None, "slots are released and refusals reset");
}

fn refused_after(pool: &HashQueue) -> Option<i64> {
    pool.place(Purpose::SignIn, IpAddr::from([192, 0, 2, 1])).err()?.retry_after
}

#[test]
fn slower_hashes_leave_room_for_fewer_and_more_at_once_for_more() {
    let pool = pool();
    pool.cost.store(100_000, Ordering::Relaxed);
    assert_eq!(places(&pool, Purpose::SignIn, 1, 2000).len(), 101);
    let pool = HashQueue::new(HashSettings { concurrency: 4, ..ONE_AT_ONCE });
    pool.cost.store(100_000, Ordering::Relaxed);
    assert_eq!(places(&pool, Purpose::SignIn, 1, 2000).len(), 401);
}

#[test]
fn neither_registrations_nor_one_address_take_the_places_of_others() {
    let pool = pool();
    pool.cost.store(1, Ordering::Relaxed);
    let flood: Vec<_> = (0..100).flat_map(|n| places(&pool, Purpose::Registration, n, 1000)).collect();
    assert_eq!(pool.lines[Purpose::Registration as usize].waiting().all, MAX_WAITING);
    let greedy = places(&pool, Purpose::SignIn, 1, 1000);
    assert_eq!(places(&pool, Purpose::SignIn, 2, 1).len(), 1, "another address");
    let many: Vec<IpAddr> = (0..500).map(|n| format!("2001:db8::{n:x}").parse().unwrap()).collect();
    let network: Vec<_> = many.iter().filter_map(|address| pool.place(Purpose::SignIn, *address).ok()).collect();
    assert_eq!(
        pool.lines[Purpose::SignIn as usize].waiting().by_network.len(),
        2 * WIDTHS.len(),
        "a /64 counts as one address, and empty networks are removed"
    );
    drop((flood, greedy, network));
    assert_eq!(places(&pool, Purpose::Registration, 1, 1).len(), 1, "slots are released");
    assert_eq!(pool.lines[Purpose::SignIn as usize].waiting().by_network.len(), 0, "and empty networks are removed");
}

const ONE_AT_ONCE: HashSettings = HashSettings { concurrency: 1, max_wait: Duration::from_secs(10) };

#[tokio::test]
async fn a_newcomer_takes_the_newest_place_of_the_address_that_has_the_most() {
    let pool = pool();
    pool.cost.store(1, Ordering::Relaxed);
    let place = |network: u8| pool.place(Purpose::SignIn, IpAddr::from([192, 0, 2, network]));
    let mut greedy: Vec<Vec<Place>> = (0..4).map(|n| places(&pool, Purpose::SignIn, n, MAX_WAITING / 4)).collect();
    assert_eq!(pool.lines[Purpose::SignIn as usize].waiting().all, MAX_WAITING);
    let one_more = place(0).err().unwrap();
    assert_eq!(one_more.code, &TOO_MANY_SIGN_INS, "the network with the most callers gets no more slots");
    let honest = place(9).expect("a caller from another network gets a slot");
    assert_eq!(pool.lines[Purpose::SignIn as usize].waiting().all, MAX_WAITING);
    let newest = greedy[3].pop().unwrap();
    let refused = is_password(newest).await.unwrap_err();
    assert_eq!(refused.code, &TOO_MANY_SIGN_INS);
    assert_eq!(pool.lines[Purpose::SignIn as usize].waiting().all, MAX_WAITING, "its slot was already released");
    assert_eq!(is_password(greedy[3].pop().unwrap()).await.unwrap(), None);
    pool.cost.store(1, Ordering::Relaxed);
    drop(place(3).expect("a slot was released"));
    // If all networks have the same number, none is evicted, and a lone caller is safe.
    drop(greedy);
    pool.cost.store(1, Ordering::Relaxed);
    let many = |n: usize| IpAddr::from([198, 51, (n / 256) as u8, (n % 256) as u8]);
    let alone: Vec<_> = (1..MAX_WAITING).map(|n| pool.place(Purpose::SignIn, many(n)).ok().unwrap()).collect();
    assert_eq!(pool.lines[Purpose::SignIn as usize].waiting().all, MAX_WAITING);
    for n in [1, 9999] {
        assert_eq!(pool.place(Purpose::SignIn, many(n)).err().unwrap().code, &TOO_MANY_SIGN_INS);
    }
    drop((alone, honest));
    let waiting = pool.lines[Purpose::SignIn as usize].waiting();
    assert!(waiting.all == 0 && waiting.by_network.is_empty() && waiting.idle.is_empty());
}

#[tokio::test]
async fn who_has_waited_as_long_as_it_may_is_refused_and_leaves_its_place() {
    let pool = HashQueue::new(HashSettings { max_wait: Duration::from_millis(1), ..ONE_AT_ONCE });
    pool.cost.store(1, Ordering::Relaxed);
    let all_wait = pool.turns.acquire().await.unwrap();
    let place = pool.place(Purpose::SignIn, IpAddr::from([192, 0, 2, 1])).unwrap();
    assert_eq!(is_password(place).await.unwrap_err().code, &TOO_MANY_SIGN_INS);
    drop(all_wait);
    assert_eq!(pool.lines[Purpose::SignIn as usize].waiting().all, 0);
}

#[tokio::test]
async fn the_lines_take_turns_whoever_came_first() {
    let pool = Arc::new(HashQueue::new(ONE_AT_ONCE));
    let order: Arc<Mutex<Vec<&str>>> = Arc::default();
    let all_wait = pool.turns.acquire().await.unwrap();
    let mut served = tokio::task::JoinSet::new();
    let crowd = [("registration", Purpose::Registration, 1, 20), ("greedy", Purpose::SignIn, 1, 20)];
    for (name, purpose, network, count) in crowd.into_iter().chain([("late", Purpose::SignIn, 2, 1)]) {
        for _ in 0..count {
            let (pool, order) = (pool.clone(), order.clone());
            served.spawn(async move {
                let place = pool.place(purpose, IpAddr::from([192, 0, 2, network])).unwrap();
                place.take_turn(move |_| order.lock().unwrap().push(name)).await.unwrap();
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

fn of_customer(n: u32) -> IpAddr {
    IpAddr::from(Ipv6Addr::from((0x2001_0db8_0001_u128 << 80) | (u128::from(n) << 64)))
}

#[test]
fn w163_strangers_keep_nobody_waiting_who_is_known_or_on_this_machine_and_many_networks_of_one_are_one() {
    let pool = HashQueue::new(HashSettings { max_wait: Duration::from_secs(1), ..ONE_AT_ONCE });
    pool.cost.store(10_000, Ordering::Relaxed);
    let place = |purpose: Purpose, address: IpAddr| pool.place(purpose, address);
    let strangers: Vec<_> = (0..256).filter_map(|n| place(Purpose::SignIn, of_customer(n)).ok()).collect();
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
fn w163_who_has_many_networks_gives_way_to_others_and_within_one_they_take_turns_too() {
    let pool = pool();
    pool.cost.store(1, Ordering::Relaxed);
    let place = |address: IpAddr| pool.place(Purpose::SignIn, address);
    // Sixteen in each of 256 /64s of one /56.
    let full = MAX_WAITING as u32;
    let crowd: Vec<_> = (0..full).map(|n| place(of_customer(n % 256)).ok().unwrap()).collect();
    let waiting = || pool.lines[Purpose::SignIn as usize].waiting();
    assert!(place(IpAddr::from([203, 0, 113, 1])).is_ok(), "another address");
    assert_eq!(waiting().all, MAX_WAITING - 1);
    drop(place(of_customer(0x100)));
    let last = place(of_customer(0)).expect("one slot was released");
    assert!(place(of_customer(0x100)).is_ok(), "another /56 of the same /48");
    drop(last);
    drop(place(of_customer(1)).expect("one slot was released"));
    drop(crowd);
    assert!(waiting().by_network.is_empty() && waiting().idle.is_empty());
}

#[test]
fn turns_of_a_newcomer_are_counted_through_its_networks() {
    let pool = pool();
    let addresses = [0x000, 0x000, 0x000, 0x001, 0x001, 0x100, 0x100, 0x100];
    let mut taken: Vec<_> =
        addresses.iter().map(|n| pool.place(Purpose::SignIn, of_customer(*n)).ok().unwrap()).collect();
    taken.extend(places(&pool, Purpose::SignIn, 1, 5));
    let ahead = |n: u32| pool.lines[Purpose::SignIn as usize].waiting().ahead(&networks(of_customer(n)));
    // For a new /56, one caller of the other /56 comes first, and for the two /48s one of each.
    assert_eq!(ahead(0x200), 2 + 3, "one of each sibling /56, then three of the IPv4 address");
    assert_eq!(ahead(0x002), 2 + 3 + 5, "one of each /64, three of the /56, all five");
    drop(taken);
    assert_eq!(ahead(0x000), 0);
}
