//! Health probes: opens a connection, or sends an HTTP GET if the instance has a health path. One task schedules the
//! probes, which run concurrently. A new registration is probed at short intervals until it answers, since programs
//! register before they listen (decision "Probes and heartbeats"). Accounts cannot make the daemon open connections
//! without limit: each instance is probed once per interval, and additional probes, after registrations and failures,
//! have a rate limit per account. All probes of one host have a rate limit too, a part of which is reserved for
//! accounts with few probes. Probes above a limit are delayed.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use openorch_api::registry::InstanceStatus;
use openorch_chassis::{
    Result,
    outbound::DialError,
    rate_limit::{Rate, RateLimiter},
};
use openorch_store::{Batch, Stored};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Registry,
    instance_cache::{CachedInstance, ProbeResult},
};

/// A command to the probing task.
pub enum Command {
    /// After a registration: probe now and then at short intervals until it answers; `done` is notified after the first
    /// result.
    Startup { id: Arc<str>, done: oneshot::Sender<()> },
    /// The instance may have failed: probe now.
    Recheck { id: Arc<str> },
}

/// The probe state of one instance.
struct ProbeState {
    owner: Box<str>,
    due: Instant,
    /// The end of the startup probes and their current interval.
    startup: Option<(Instant, Duration)>,
    running: bool,
    /// Waits in the queue of its account instead of the schedule.
    throttled: bool,
    /// Already counted against the rate limit of its host, so it starts when it is due.
    host_reserved: bool,
    /// Requested during a probe: that probe started too early to count, so another one follows.
    rerun: bool,
    waiters: Vec<oneshot::Sender<()>>,
}

struct Schedule {
    probes: HashMap<Arc<str>, ProbeState>,
    queue: BTreeSet<(Instant, Arc<str>)>,
    /// Running probes of all accounts.
    running: usize,
    quotas: HashMap<Box<str>, AccountQuota>,
    /// Rate limits of additional probes by account, and of all probes by host.
    extra: RateLimiter<String>,
    hosts: RateLimiter<String>,
    /// The rate reserved for accounts with few probes of a host, so that they do not wait behind accounts with many;
    /// and the share of one account in it.
    kept: RateLimiter<String>,
    kept_of_account: RateLimiter<String>,
    started: Instant,
}

/// Divisor: a fifth of a host's rate is reserved for accounts with few probes.
const RESERVED_FRACTION: u32 = 5;
/// Maximum wait for the reserved rate; beyond it, the probe competes with all others.
const RESERVED_MAX_WAIT: Duration = Duration::from_millis(500);
/// Maximum rate of one account's probes of one host within the reserved rate.
const RESERVED_RATE_OF_ACCOUNT: Rate = Rate { per_second: 2, burst: 20 };

/// The concurrent probes of one account. They are limited, so that hanging instances do not delay the probes of other
/// accounts.
#[derive(Default)]
struct AccountQuota {
    running: usize,
    /// Due, but waiting until a probe of the same account ends.
    waiting: VecDeque<Arc<str>>,
}

pub async fn run(registry: Arc<Registry>) {
    let inbox = registry.command_receiver.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some(mut inbox) = inbox else { return };
    let of_host = registry.settings.probe_rate_of_host();
    let part = |rate: Rate, fifths: u32| {
        let of = |number: u32| (u64::from(number) * u64::from(fifths) / u64::from(RESERVED_FRACTION)) as u32;
        Rate { per_second: of(rate.per_second), burst: of(rate.burst) }
    };
    let mut schedule = Schedule {
        probes: HashMap::new(),
        queue: BTreeSet::new(),
        running: 0,
        quotas: HashMap::new(),
        extra: RateLimiter::new(registry.settings.probe_rate_of_account()),
        hosts: RateLimiter::new(part(of_host, RESERVED_FRACTION - 1)),
        kept: RateLimiter::new(part(of_host, 1)),
        kept_of_account: RateLimiter::new(RESERVED_RATE_OF_ACCOUNT),
        started: Instant::now(),
    };
    schedule.spread(&registry);
    let mut running: JoinSet<Arc<str>> = JoinSet::new();
    loop {
        let has_capacity = running.len() < registry.settings.probe_concurrency;
        let next = schedule.queue.first().map(|(due, _)| *due).filter(|_| has_capacity);
        tokio::select! {
            command = inbox.recv() => match command {
                Some(command) => schedule.handle(command, &registry),
                None => return,
            },
            Some(ended) = running.join_next() => match ended {
                Ok(id) => schedule.finish(&id, &registry),
                Err(error) => tracing::error!("a probe failed: {error}"),
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                if let Some(id) = schedule.start_next(&registry) {
                    let registry = registry.clone();
                    running.spawn(async move {
                        probe(&registry, &id).await;
                        id
                    });
                }
            }
        }
    }
}

impl Schedule {
    /// At start, spreads the first probes over one interval, so that they do not all run at the same time.
    fn spread(&mut self, registry: &Registry) {
        let all = registry.cache.all();
        let (now, count) = (Instant::now(), all.len().max(1) as u32);
        for (index, entry) in all.iter().enumerate() {
            // Few instances are all probed immediately.
            let delay =
                if count <= 256 { Duration::ZERO } else { *registry.settings.probe_interval * index as u32 / count };
            self.schedule(&entry.row.id.as_str().into(), &entry.row.owner_id, now + delay);
        }
    }

    fn schedule(&mut self, id: &Arc<str>, owner: &str, due: Instant) -> &mut ProbeState {
        let known = self.probes.get(id);
        if let Some(known) = known {
            self.queue.remove(&(known.due, id.clone()));
        }
        if known.is_none_or(|known| !known.throttled) {
            self.queue.insert((due, id.clone()));
        }
        let plan = self.probes.entry(id.clone()).or_insert_with(|| ProbeState {
            owner: owner.into(),
            due,
            startup: None,
            running: false,
            throttled: false,
            host_reserved: false,
            rerun: false,
            waiters: Vec::new(),
        });
        (plan.due, plan.host_reserved) = (due, false);
        plan
    }

    /// Schedules an additional probe as soon as the rate limits of account and host permit, at the latest with the next
    /// regular probe.
    fn schedule_extra(&mut self, entry: &CachedInstance, pause: Duration, max_wait: Duration) {
        let (id, now): (Arc<str>, Instant) = (entry.row.id.as_str().into(), Instant::now());
        let tick = now.duration_since(self.started).as_micros() as i64;
        let is_waiting = |plan: &ProbeState| plan.throttled || self.queue.contains(&(plan.due, id.clone()));
        if self.probes.get(&id).is_some_and(|plan| is_waiting(plan) && plan.due <= now + pause) {
            return;
        }
        let share = format!("{} {}", entry.row.owner_id, entry.url.host());
        let kept = || {
            self.kept_of_account.try_acquire(share.as_str(), tick)?;
            self.kept.reserve(entry.url.host(), tick, RESERVED_MAX_WAIT)
        };
        let of_host = || match kept() {
            Ok(late) => Ok(late),
            Err(_) => self.hosts.reserve(entry.url.host(), tick, max_wait),
        };
        let late = self.extra.reserve(entry.row.owner_id.as_str(), tick, max_wait);
        let late = late.and_then(|late| Ok(of_host()?.max(late)));
        let due = now + late.unwrap_or(max_wait).max(pause);
        let plan = self.schedule(&id, &entry.row.owner_id, due);
        plan.host_reserved = late.is_ok();
    }

    fn handle(&mut self, command: Command, registry: &Registry) {
        let now = Instant::now();
        let (id, done) = match command {
            Command::Startup { id, done } => (id, Some(done)),
            Command::Recheck { id } => (id, None),
        };
        if !self.probes.get(&id).is_some_and(|plan| plan.running) {
            let Some(entry) = registry.cache.get(&id) else { return };
            self.schedule_extra(&entry, Duration::ZERO, *registry.settings.probe_interval);
        }
        let Some(plan) = self.probes.get_mut(&id) else { return };
        plan.rerun = plan.running;
        plan.startup = done.is_some().then(|| startup_window(registry, now)).or(plan.startup);
        // Registrations wait only briefly, so some waiters may have given up.
        plan.waiters.retain(|waiting| !waiting.is_closed());
        plan.waiters.extend(done);
    }

    /// Takes the next due probe; none if its account has reached its limit, in which case the probe waits in the
    /// account's queue.
    fn start_next(&mut self, registry: &Registry) -> Option<Arc<str>> {
        let (_, id) = self.queue.pop_first()?;
        let most = self.max_of_account(registry);
        let plan = self.probes.get_mut(&id)?;
        if !plan.host_reserved
            && let Some(entry) = registry.cache.get(&id)
        {
            let (now, most) = (Instant::now(), *registry.settings.probe_interval);
            let late = self.hosts.reserve(entry.url.host(), now.duration_since(self.started).as_micros() as i64, most);
            plan.host_reserved = late.is_ok();
            if late != Ok(Duration::ZERO) {
                plan.due = now + late.unwrap_or(most);
                self.queue.insert((plan.due, id));
                return None;
            }
        }
        let share = self.quotas.entry(plan.owner.clone()).or_default();
        if share.running >= most {
            plan.throttled = true;
            share.waiting.push_back(id);
            return None;
        }
        share.running += 1;
        self.running += 1;
        plan.running = true;
        Some(id)
    }

    /// The limit of concurrent probes per account. It drops to one when many probes run, so that hanging instances do
    /// not take all slots.
    fn max_of_account(&self, registry: &Registry) -> usize {
        let is_crowded = self.running >= registry.settings.probe_concurrency / 2;
        if is_crowded { 1 } else { registry.settings.probe_concurrency_per_account }
    }

    /// Frees the slot of a finished probe and starts waiting probes of the same account.
    fn release_slot(&mut self, owner: &str, registry: &Registry) {
        self.running = self.running.saturating_sub(1);
        let most = self.max_of_account(registry);
        let Some(share) = self.quotas.get_mut(owner) else { return };
        share.running = share.running.saturating_sub(1);
        let free_slots = most.saturating_sub(share.running).min(share.waiting.len());
        for next in share.waiting.drain(..free_slots) {
            if let Some(plan) = self.probes.get_mut(&next) {
                plan.throttled = false;
                plan.due = Instant::now();
                self.queue.insert((plan.due, next));
            }
        }
        if share.running == 0 && share.waiting.is_empty() {
            self.quotas.remove(owner);
        }
    }

    fn finish(&mut self, id: &Arc<str>, registry: &Registry) {
        let Some(owner) = self.probes.get(id).map(|plan| plan.owner.clone()) else { return };
        self.release_slot(&owner, registry);
        let Some(entry) = registry.cache.get(id) else {
            self.probes.remove(id);
            return;
        };
        let now = Instant::now();
        let Some(plan) = self.probes.get_mut(id) else { return };
        plan.running = false;
        let again = std::mem::take(&mut plan.rerun);
        if !again {
            for waiting in plan.waiters.drain(..) {
                // The waiter may have given up.
                let _ = waiting.send(());
            }
        }
        let answered = matches!(entry.status(), InstanceStatus::Healthy | InstanceStatus::Degraded);
        let regular = *registry.settings.probe_interval;
        let extra = match plan.startup {
            _ if again => Some(Duration::ZERO),
            Some((until, pause)) if !answered && now < until => {
                plan.startup = Some((until, (pause * 2).min(*registry.settings.probe_startup_backoff_max)));
                Some(pause)
            }
            _ => {
                plan.startup = None;
                None
            }
        };
        match extra {
            Some(pause) => self.schedule_extra(&entry, pause, regular),
            None => drop(self.schedule(id, &owner, now + regular)),
        }
    }
}

fn startup_window(registry: &Registry, now: Instant) -> (Instant, Duration) {
    (now + registry.settings.probe_startup_period, *registry.settings.probe_startup_backoff)
}

async fn probe(registry: &Registry, id: &str) {
    let Some(entry) = registry.cache.get(id) else { return };
    // A local failure says nothing about the instance, so its status stays until the next probe.
    let Some(finding) = check(registry, &entry).await else { return };
    let Some(before) = registry.cache.apply_probe(&entry, &finding, registry.now()) else { return };
    registry.log(&entry.row, &format!("is {} (was {})", finding.status.as_str(), before.as_str()));
    if let Err(error) = store_status(registry, id, &finding).await {
        tracing::warn!(instance.id = %id, "cannot store the status of instance `{id}`: {error:?}");
    }
}

async fn check(registry: &Registry, entry: &CachedInstance) -> Option<ProbeResult> {
    let started = Instant::now();
    let reached = match timeout(registry.settings.probe_timeout, check_health(registry, entry)).await {
        Ok(Err(ProbeFailure::Local)) => return None,
        Ok(Err(ProbeFailure::Remote(reason))) => Err(reason),
        Ok(Ok(())) => Ok(()),
        Err(_) => Err(format!("no answer within {:?}", registry.settings.probe_timeout)),
    };
    let took = started.elapsed();
    Some(match reached {
        Err(reason) => ProbeResult { status: InstanceStatus::Unreachable, details: reason },
        Ok(()) if took > registry.settings.probe_degraded_after => ProbeResult {
            status: InstanceStatus::Degraded,
            details: format!("slow: it took {} ms to answer", took.as_millis()),
        },
        Ok(()) => ProbeResult { status: InstanceStatus::Healthy, details: String::new() },
    })
}

/// Why a probe failed.
enum ProbeFailure {
    /// This machine lacked descriptors, ports or memory, or could not look up the name.
    Local,
    Remote(String),
}

async fn check_health(registry: &Registry, entry: &CachedInstance) -> Result<(), ProbeFailure> {
    let connection =
        registry.platform.outbound.dial(&entry.url, &entry.row.slug).await.map_err(|error: DialError| {
            match error.is_of_instance() {
                true => ProbeFailure::Remote(error.to_string()),
                false => ProbeFailure::Local,
            }
        })?;
    if entry.row.health_path.is_empty() {
        return Ok(());
    }
    let path = &entry.row.health_path;
    let failed = |error: hyper::Error| ProbeFailure::Remote(format!("GET {path}: {error}"));
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(failed)?;
    let request = Request::get(path.as_str())
        .header(header::HOST, entry.url.authority())
        .header(header::USER_AGENT, "openorch-health")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ProbeFailure::Remote(format!("GET {path}: {error}")))?;
    let answer = async { sender.send_request(request).await.map_err(failed) };
    tokio::select! {
        answer = answer => {
            let status = answer?.status();
            let well = status.is_success() || status.is_redirection();
            if well { Ok(()) } else { Err(ProbeFailure::Remote(format!("GET {path} answered {status}"))) }
        }
        ended = driver => Err(match ended {
            Ok(()) => ProbeFailure::Remote(format!("GET {path}: the connection was closed without an answer")),
            Err(error) => failed(error),
        }),
    }
}

/// Stores the new status, which counts after a restart until the first probe. A lost race is ignored, since the next
/// probe finds the same status.
async fn store_status(registry: &Registry, id: &str, finding: &ProbeResult) -> Result<()> {
    let Some(Stored { version, value: mut row, .. }) = registry.instances.get(id).await? else { return Ok(()) };
    row.status = finding.status;
    row.details.clone_from(&finding.details);
    let batch = Batch::new().with(registry.instances.replace(id, &row, Some(version))?);
    match registry.platform.store.commit(batch).await.map_err(openorch_chassis::Error::from) {
        Err(error) if !error.is_write_conflict() => return Err(error),
        _ => {}
    }
    if let Some(stored) = registry.instances.get(id).await? {
        registry.cache.update_row(stored.value, stored.version);
    }
    Ok(())
}
