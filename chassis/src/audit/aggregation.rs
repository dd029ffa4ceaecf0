//! Aggregation of calls for which the audit log keeps a counter instead of an entry each: refused calls, and repeated
//! sign-ins. They are aggregated by actor, operation, status and target within a minute. The table has two budgets, one for
//! accounts and one for unauthenticated addresses, so that anonymous requests cannot hide the calls of accounts. Within each,
//! a caller and an operation with a status have a share: a flood of sign-ins to accounts that do not exist leaves room for
//! those to accounts that do. Calls beyond a caller's share are counted by caller and operation, calls beyond the other
//! limits by operation only: the first entries and the counts are never lost.

use std::collections::{BTreeMap, HashMap};

use openorch_api::audit::{AuditEntry, AuditOutcome};

use crate::forwarded::client_network;

/// Maximum numbers of entries created within a minute.
struct Budget {
    total: usize,
    per_operation: usize,
    per_caller: usize,
    /// For one caller, operation and status.
    per_kind: usize,
}

const ACCOUNT_BUDGET: Budget = Budget { total: 5_000, per_operation: 1_000, per_caller: 400, per_kind: 100 };
const ANONYMOUS_BUDGET: Budget = Budget { total: 2_000, per_operation: 500, per_caller: 100, per_kind: 25 };
/// Maximum pending entries of earlier minutes. While the store is unavailable, further ones are dropped and counted.
const MAX_PENDING: usize = 20_000;
/// An updated entry is written when its count has doubled or after this many rounds. Writing it in each round would turn a
/// flood of refusals into a flood of writes.
const MAX_WAIT_ROUNDS: u32 = 5;

/// The key of an entry. `None` stands for all values without an entry of their own.
#[derive(PartialEq, Eq, Hash, Clone, Debug)]
pub(super) struct AggregationKey {
    is_account: bool,
    caller: Option<String>,
    operation: String,
    parent: String,
    status: u16,
    target: Option<String>,
    is_refused: bool,
}

impl AggregationKey {
    fn kind(&self, caller: &str) -> Kind {
        (self.is_account, caller.to_owned(), self.operation.clone(), self.status)
    }
}

struct Aggregated {
    entry: AuditEntry,
    /// The count in the store.
    written: u64,
    /// Rounds since that write.
    rounds_waited: u32,
}

/// Whether the caller is an account, the caller, the operation and the status.
type Kind = (bool, String, String, u16);

/// The entries of the current minute, and pending ones of earlier minutes.
#[derive(Default)]
pub(super) struct Table {
    minute: i64,
    entries: HashMap<AggregationKey, Aggregated>,
    /// The number of entries by whether the caller is an account; below, also by operation and by caller.
    totals: HashMap<bool, usize>,
    by_operation: HashMap<(bool, String, u16), usize>,
    by_caller: HashMap<(bool, String), usize>,
    /// By caller, operation and status: frequent calls of one kind do not hide the caller's other calls.
    by_kind: HashMap<Kind, usize>,
    /// Pending entries of earlier minutes, by id.
    pending: BTreeMap<String, AuditEntry>,
    /// Calls that were dropped since the last report.
    dropped: u64,
}

/// An entry to be written, with its key.
pub(super) struct Due {
    key: AggregationKey,
    pub entry: AuditEntry,
}

impl Table {
    /// Counts a call. Returns the entry if it is new.
    pub fn add(&mut self, mut entry: AuditEntry, new_id: impl FnOnce() -> String) -> Option<Due> {
        self.begin_minute(entry.at.0.as_second().div_euclid(60));
        let key = self.key(&entry);
        if let Some(known) = self.entries.get_mut(&key) {
            known.entry.count += 1;
            return None;
        }
        entry.id = new_id();
        if key.target.is_none() {
            entry.target.clear();
            entry.targets.clear();
        }
        match &key.caller {
            Some(caller) => {
                *self.totals.entry(key.is_account).or_default() += 1;
                *self.by_operation.entry((key.is_account, key.operation.clone(), key.status)).or_default() += 1;
                *self.by_caller.entry((key.is_account, caller.clone())).or_default() += 1;
                *self.by_kind.entry(key.kind(caller)).or_default() += 1;
            }
            None => (entry.actor_id, entry.actor_slug, entry.client_ip, entry.request_id) = Default::default(),
        }
        self.entries.insert(key.clone(), Aggregated { entry: entry.clone(), written: 0, rounds_waited: 0 });
        Some(Due { key, entry })
    }

    /// The most specific key that has an entry or for which the budgets have room.
    fn key(&self, entry: &AuditEntry) -> AggregationKey {
        let is_account = !entry.actor_id.is_empty();
        let caller = match is_account {
            // Calls of a service with a delegated token must not hide those of the account itself.
            true => format!("{} {}", entry.actor_id, entry.via_service),
            // An anonymous client can use all addresses of its network.
            false => {
                entry.client_ip.parse().map_or_else(|_| entry.client_ip.clone(), |ip| client_network(ip).to_string())
            }
        };
        let exact = AggregationKey {
            is_account,
            caller: Some(caller.clone()),
            operation: entry.operation.clone(),
            parent: entry.parent_operation.clone(),
            status: entry.status,
            target: Some(entry.target.clone()),
            is_refused: entry.outcome == AuditOutcome::Refused,
        };
        if self.entries.contains_key(&exact) {
            return exact;
        }
        let of_caller = AggregationKey { target: None, ..exact.clone() };
        let of_operation = AggregationKey { caller: None, ..of_caller.clone() };
        let budget = if is_account { &ACCOUNT_BUDGET } else { &ANONYMOUS_BUDGET };
        let operation = (is_account, entry.operation.clone(), entry.status);
        let has_room = self.totals.get(&is_account).is_none_or(|count| *count < budget.total)
            && self.by_operation.get(&operation).is_none_or(|count| *count < budget.per_operation);
        let is_within_share = self.by_kind.get(&exact.kind(&caller)).is_none_or(|count| *count < budget.per_kind)
            && self.by_caller.get(&(is_account, caller)).is_none_or(|count| *count < budget.per_caller);
        match (has_room, is_within_share) {
            (true, true) => exact,
            (true, false) => of_caller,
            (false, _) if self.entries.contains_key(&of_caller) => of_caller,
            (false, _) => of_operation,
        }
    }

    fn begin_minute(&mut self, minute: i64) {
        if minute == self.minute {
            return;
        }
        self.minute = minute;
        for counted in std::mem::take(&mut self.entries).into_values() {
            if counted.written >= counted.entry.count {
                continue;
            }
            if self.pending.len() < MAX_PENDING {
                self.pending.insert(counted.entry.id.clone(), counted.entry);
            } else {
                self.dropped += counted.entry.count - counted.written;
            }
        }
        (self.totals, self.by_operation, self.by_caller, self.by_kind) = Default::default();
    }

    /// The pending entries and those due in this round, or with `all`, at shutdown, all unwritten ones; and how many calls
    /// were dropped since the last round.
    pub fn due(&mut self, minute: i64, all: bool) -> (Vec<AuditEntry>, Vec<Due>, u64) {
        self.begin_minute(minute);
        let mut due = Vec::new();
        for (key, counted) in &mut self.entries {
            if counted.written == counted.entry.count {
                continue;
            }
            counted.rounds_waited += 1;
            if all || counted.entry.count >= counted.written * 2 || counted.rounds_waited >= MAX_WAIT_ROUNDS {
                due.push(Due { key: key.clone(), entry: counted.entry.clone() });
            }
        }
        (self.pending.values().cloned().collect(), due, std::mem::take(&mut self.dropped))
    }

    /// Marks a pending entry of an earlier minute as written.
    pub fn mark_pending_written(&mut self, entry: &AuditEntry) {
        self.pending.remove(&entry.id);
    }

    /// Marks an entry as written. Returns whether it is new in the store.
    pub fn mark_written(&mut self, due: &Due) -> bool {
        match self.entries.get_mut(&due.key).filter(|counted| counted.entry.id == due.entry.id) {
            Some(counted) => {
                let is_first = counted.written == 0;
                (counted.written, counted.rounds_waited) = (due.entry.count, 0);
                is_first
            }
            // Its minute ended meanwhile.
            None => {
                if self.pending.get(&due.entry.id).is_some_and(|left| left.count == due.entry.count) {
                    self.pending.remove(&due.entry.id);
                }
                due.entry.count == 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(actor: &str, ip: &str, operation: &str, target: &str) -> AuditEntry {
        AuditEntry {
            actor_id: actor.into(),
            client_ip: ip.into(),
            operation: operation.into(),
            target: target.into(),
            outcome: AuditOutcome::Refused,
            count: 1,
            at: openorch_api::Time(jiff::Timestamp::UNIX_EPOCH),
            ..AuditEntry::default()
        }
    }

    fn add(table: &mut Table, entry: AuditEntry) {
        let id = format!("aud_{}", table.entries.len());
        table.add(entry, || id);
    }

    fn counts(table: &Table, fits: impl Fn(&AuditEntry) -> bool) -> (usize, u64) {
        let entries = table.entries.values().map(|counted| &counted.entry).filter(|entry| fits(entry));
        entries.fold((0, 0), |(entries, calls), entry| (entries + 1, calls + entry.count))
    }

    #[test]
    fn no_flood_hides_what_others_do_and_no_call_is_lost() {
        let mut table = Table::default();
        for n in 0..100_000_u32 {
            let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n % 30_000);
            add(&mut table, entry("", &ip.to_string(), "login", &format!("t{n}")));
            add(&mut table, entry("usr_busy", "10.0.0.1", "removeInstance", &format!("t{n}")));
        }
        add(&mut table, entry("usr_sly", "10.0.0.2", "removeInstance", "victim"));
        add(&mut table, entry("", "10.0.0.3", "register", "victim"));
        let (entries, calls) = counts(&table, |entry| entry.operation == "login");
        assert!(entries <= ANONYMOUS_BUDGET.per_operation + 1 && calls == 100_000, "{entries} {calls}");
        let (entries, calls) = counts(&table, |entry| entry.actor_id == "usr_busy");
        assert!(entries <= ACCOUNT_BUDGET.per_caller + 1 && calls == 100_000, "{entries} {calls}");
        assert_eq!(counts(&table, |entry| entry.actor_id == "usr_sly" && entry.target == "victim"), (1, 1));
        assert_eq!(counts(&table, |entry| entry.client_ip == "10.0.0.3" && entry.target == "victim"), (1, 1));
        assert_eq!(counts(&table, |entry| entry.target == "t0").0, 2, "the first ones stay");
        add(&mut table, AuditEntry { status: 401, ..entry("", "10.0.0.4", "login", "an account that exists") });
        assert_eq!(counts(&table, |entry| entry.target == "an account that exists"), (1, 1));
    }

    #[test]
    fn what_a_caller_does_much_of_hides_nothing_else_of_it() {
        let mut table = Table::default();
        for n in 0..300 {
            add(&mut table, AuditEntry { status: 400, ..entry("", "10.0.0.1", "login", &format!("nobody-{n}")) });
            add(&mut table, AuditEntry { status: 404, ..entry("usr_a", "10.0.0.2", "deleteUser", &format!("n{n}")) });
        }
        add(&mut table, AuditEntry { status: 401, ..entry("", "10.0.0.1", "login", "somebody") });
        for operation in ["resetPassword", "deleteUser"] {
            add(&mut table, AuditEntry { status: 403, ..entry("usr_a", "10.0.0.2", operation, "somebody") });
        }
        assert_eq!(counts(&table, |entry| entry.target == "somebody"), (3, 3));
    }

    #[test]
    fn an_entry_is_written_at_once_when_it_has_doubled_and_when_it_waited() {
        let mut table = Table::default();
        let mut rounds = |calls: usize, all: bool| {
            for _ in 0..calls {
                add(&mut table, entry("usr_a", "10.0.0.1", "login", "a"));
            }
            let (_, due, _) = table.due(0, all);
            for due in &due {
                table.mark_written(due);
            }
            due.first().map(|due| due.entry.count)
        };
        assert_eq!(rounds(1, false), Some(1));
        assert_eq!(rounds(9, false), Some(10));
        assert_eq!(rounds(5, false), None);
        assert_eq!(rounds(5, false), Some(20));
        assert_eq!(rounds(1, true), Some(21));
        assert_eq!(rounds(1, false), None);
        for _ in 2..MAX_WAIT_ROUNDS {
            assert_eq!(rounds(0, false), None);
        }
        assert_eq!(rounds(0, false), Some(22));
        add(&mut table, entry("usr_a", "10.0.0.1", "login", "a"));
        let (left, due, _) = table.due(1, false);
        assert_eq!((left.len(), left[0].count, due.len()), (1, 23, 0), "also after its minute");
    }
}
