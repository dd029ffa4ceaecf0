//! Finds out which instances answer: by opening a connection, or by an HTTP GET where an instance names a health path.
//! One task decides when; the probes themselves run side by side. A new registration is probed quickly until it
//! answers, since programs register before they listen (decision "Probes and heartbeats"). An account cannot make the
//! daemon open connections without end: each instance is probed once an interval, and what comes beside that, after
//! registrations and failures, has a rate per account; all probes of one host have a rate too, a part of which is for
//! accounts with few. What is over it happens later.

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
    rate::{Limiter, Rate},
};
use openorch_store::{Batch, Stored};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Registry,
    live::{Entry, Finding},
};

/// What the probing task is asked.
pub enum Command {
    /// A registration: probe now, and quickly again until it answers; say when the first result is there.
    Quick { id: Arc<str>, done: oneshot::Sender<()> },
    /// Something seems wrong: probe now.
    Now { id: Arc<str> },
}

/// What the task knows of the probing of one instance.
struct Plan {
    owner: Box<str>,
    due: Instant,
    /// Until then it is probed quickly, with this pause.
    quick: Option<(Instant, Duration)>,
    running: bool,
    /// Waits in the share of its account instead of in the queue.
    parked: bool,
    /// It is counted by the rate of its host already, and so starts when it is due.
    counted: bool,
    /// Asked for while one was running: that one began too early to count.
    again: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

struct Schedule {
    plans: HashMap<Arc<str>, Plan>,
    queue: BTreeSet<(Instant, Arc<str>)>,
    /// Of all accounts.
    running: usize,
    shares: HashMap<Box<str>, Share>,
    /// Probes beside the regular ones, by account, and all probes, by host.
    extra: Limiter<String>,
    hosts: Limiter<String>,
    /// The part of a host's rate that is kept for accounts with few probes, so that they do not wait behind those with many;
    /// and what each account may have of it.
    kept: Limiter<String>,
    kept_of_account: Limiter<String>,
    began: Instant,
}

/// A fifth of a host's rate is for accounts with few probes.
const KEPT_PART: u32 = 5;
/// How long a probe waits for a place in that part; beyond it, it waits with all others.
const KEPT_WAIT: Duration = Duration::from_millis(500);
/// Probes of one host that an account may have of that part.
const KEPT_OF_ACCOUNT: Rate = Rate { per_second: 2, burst: 20 };

/// What one account has of the probes that run side by side: instances that hang must not delay those of others.
#[derive(Default)]
struct Share {
    running: usize,
    /// Due, and waiting for a probe of the same account to end.
    waiting: VecDeque<Arc<str>>,
}

pub async fn run(registry: Arc<Registry>) {
    let inbox = registry.inbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some(mut inbox) = inbox else { return };
    let of_host = registry.settings.probe_rate_of_host();
    let part = |rate: Rate, fifths: u32| {
        let of = |number: u32| (u64::from(number) * u64::from(fifths) / u64::from(KEPT_PART)) as u32;
        Rate { per_second: of(rate.per_second), burst: of(rate.burst) }
    };
    let mut schedule = Schedule {
        plans: HashMap::new(),
        queue: BTreeSet::new(),
        running: 0,
        shares: HashMap::new(),
        extra: Limiter::new(registry.settings.probe_rate_of_account()),
        hosts: Limiter::new(part(of_host, KEPT_PART - 1)),
        kept: Limiter::new(part(of_host, 1)),
        kept_of_account: Limiter::new(KEPT_OF_ACCOUNT),
        began: Instant::now(),
    };
    schedule.spread(&registry);
    let mut running: JoinSet<Arc<str>> = JoinSet::new();
    loop {
        let room = running.len() < registry.settings.probe_concurrency;
        let next = schedule.queue.first().map(|(due, _)| *due).filter(|_| room);
        tokio::select! {
            command = inbox.recv() => match command {
                Some(command) => schedule.take(command, &registry),
                None => return,
            },
            Some(ended) = running.join_next() => match ended {
                Ok(id) => schedule.finished(&id, &registry),
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
    /// At start: all instances within the first interval, so that they are not all probed at one moment.
    fn spread(&mut self, registry: &Registry) {
        let all = registry.live.all();
        let (now, count) = (Instant::now(), all.len().max(1) as u32);
        for (place, entry) in all.iter().enumerate() {
            // A few are probed at once; many are spread over the interval.
            let delay =
                if count <= 256 { Duration::ZERO } else { *registry.settings.probe_interval * place as u32 / count };
            self.plan(&entry.row.id.as_str().into(), &entry.row.owner_id, now + delay);
        }
    }

    fn plan(&mut self, id: &Arc<str>, owner: &str, due: Instant) -> &mut Plan {
        let known = self.plans.get(id);
        if let Some(known) = known {
            self.queue.remove(&(known.due, id.clone()));
        }
        if known.is_none_or(|known| !known.parked) {
            self.queue.insert((due, id.clone()));
        }
        let plan = self.plans.entry(id.clone()).or_insert_with(|| Plan {
            owner: owner.into(),
            due,
            quick: None,
            running: false,
            parked: false,
            counted: false,
            again: false,
            waiting: Vec::new(),
        });
        (plan.due, plan.counted) = (due, false);
        plan
    }

    /// Plans a probe beside the regular ones, as soon as account and host may have one more. Where that is not before the
    /// next regular one, it is that.
    fn plan_extra(&mut self, entry: &Entry, pause: Duration, most: Duration) {
        let (id, now): (Arc<str>, Instant) = (entry.row.id.as_str().into(), Instant::now());
        let tick = now.duration_since(self.began).as_micros() as i64;
        let waits = |plan: &Plan| plan.parked || self.queue.contains(&(plan.due, id.clone()));
        if self.plans.get(&id).is_some_and(|plan| waits(plan) && plan.due <= now + pause) {
            return;
        }
        let share = format!("{} {}", entry.row.owner_id, entry.url.host());
        let kept = || {
            self.kept_of_account.take(share.as_str(), tick)?;
            self.kept.reserve(entry.url.host(), tick, KEPT_WAIT)
        };
        let of_host = || match kept() {
            Ok(late) => Ok(late),
            Err(_) => self.hosts.reserve(entry.url.host(), tick, most),
        };
        let late = self.extra.reserve(entry.row.owner_id.as_str(), tick, most);
        let late = late.and_then(|late| Ok(of_host()?.max(late)));
        let due = now + late.unwrap_or(most).max(pause);
        let plan = self.plan(&id, &entry.row.owner_id, due);
        plan.counted = late.is_ok();
    }

    fn take(&mut self, command: Command, registry: &Registry) {
        let now = Instant::now();
        let (id, done) = match command {
            Command::Quick { id, done } => (id, Some(done)),
            Command::Now { id } => (id, None),
        };
        if !self.plans.get(&id).is_some_and(|plan| plan.running) {
            let Some(entry) = registry.live.get(&id) else { return };
            self.plan_extra(&entry, Duration::ZERO, *registry.settings.probe_interval);
        }
        let Some(plan) = self.plans.get_mut(&id) else { return };
        plan.again = plan.running;
        plan.quick = done.is_some().then(|| quick(registry, now)).or(plan.quick);
        // Registrations wait a moment only, and the probe may be late.
        plan.waiting.retain(|waiting| !waiting.is_closed());
        plan.waiting.extend(done);
    }

    /// Takes what is due next; none where its account has all the probes it may have, then it waits for one of those.
    fn start_next(&mut self, registry: &Registry) -> Option<Arc<str>> {
        let (_, id) = self.queue.pop_first()?;
        let most = self.most_of_account(registry);
        let plan = self.plans.get_mut(&id)?;
        if !plan.counted
            && let Some(entry) = registry.live.get(&id)
        {
            let (now, most) = (Instant::now(), *registry.settings.probe_interval);
            let late = self.hosts.reserve(entry.url.host(), now.duration_since(self.began).as_micros() as i64, most);
            plan.counted = late.is_ok();
            if late != Ok(Duration::ZERO) {
                plan.due = now + late.unwrap_or(most);
                self.queue.insert((plan.due, id));
                return None;
            }
        }
        let share = self.shares.entry(plan.owner.clone()).or_default();
        if share.running >= most {
            plan.parked = true;
            share.waiting.push_back(id);
            return None;
        }
        share.running += 1;
        self.running += 1;
        plan.running = true;
        Some(id)
    }

    /// How many probes one account may have at once: where many are running, one, since instances that hang must not take
    /// the places of all others.
    fn most_of_account(&self, registry: &Registry) -> usize {
        let is_crowded = self.running >= registry.settings.probe_concurrency / 2;
        if is_crowded { 1 } else { registry.settings.probe_concurrency_per_account }
    }

    /// Gives the place of a probe that ended, and what else its account may have, to the next of the same account.
    fn give_place(&mut self, owner: &str, registry: &Registry) {
        self.running = self.running.saturating_sub(1);
        let most = self.most_of_account(registry);
        let Some(share) = self.shares.get_mut(owner) else { return };
        share.running = share.running.saturating_sub(1);
        let places = most.saturating_sub(share.running).min(share.waiting.len());
        for next in share.waiting.drain(..places) {
            if let Some(plan) = self.plans.get_mut(&next) {
                plan.parked = false;
                plan.due = Instant::now();
                self.queue.insert((plan.due, next));
            }
        }
        if share.running == 0 && share.waiting.is_empty() {
            self.shares.remove(owner);
        }
    }

    fn finished(&mut self, id: &Arc<str>, registry: &Registry) {
        let Some(owner) = self.plans.get(id).map(|plan| plan.owner.clone()) else { return };
        self.give_place(&owner, registry);
        let Some(entry) = registry.live.get(id) else {
            self.plans.remove(id);
            return;
        };
        let now = Instant::now();
        let Some(plan) = self.plans.get_mut(id) else { return };
        plan.running = false;
        let again = std::mem::take(&mut plan.again);
        if !again {
            for waiting in plan.waiting.drain(..) {
                // Whoever waited may have given up.
                let _ = waiting.send(());
            }
        }
        let answered = matches!(entry.status(), InstanceStatus::Healthy | InstanceStatus::Degraded);
        let regular = *registry.settings.probe_interval;
        let extra = match plan.quick {
            _ if again => Some(Duration::ZERO),
            Some((until, pause)) if !answered && now < until => {
                plan.quick = Some((until, (pause * 2).min(*registry.settings.probe_startup_backoff_max)));
                Some(pause)
            }
            _ => {
                plan.quick = None;
                None
            }
        };
        match extra {
            Some(pause) => self.plan_extra(&entry, pause, regular),
            None => drop(self.plan(id, &owner, now + regular)),
        }
    }
}

fn quick(registry: &Registry, now: Instant) -> (Instant, Duration) {
    (now + registry.settings.probe_startup_period, *registry.settings.probe_startup_backoff)
}

async fn probe(registry: &Registry, id: &str) {
    let Some(entry) = registry.live.get(id) else { return };
    // What this machine lacks says nothing of the instance: it stays as it is until the next probe.
    let Some(finding) = look(registry, &entry).await else { return };
    let Some(before) = registry.live.found(&entry, &finding, registry.now()) else { return };
    registry.log(&entry.row, &format!("is {} (was {})", finding.status.as_str(), before.as_str()));
    if let Err(error) = note(registry, id, &finding).await {
        tracing::warn!(instance.id = %id, "the status of instance `{id}` could not be stored: {error:?}");
    }
}

async fn look(registry: &Registry, entry: &Entry) -> Option<Finding> {
    let started = Instant::now();
    let reached = match timeout(registry.settings.probe_timeout, reach(registry, entry)).await {
        Ok(Err(Failure::Here)) => return None,
        Ok(Err(Failure::There(reason))) => Err(reason),
        Ok(Ok(())) => Ok(()),
        Err(_) => Err(format!("no answer within {:?}", registry.settings.probe_timeout)),
    };
    let took = started.elapsed();
    Some(match reached {
        Err(reason) => Finding { status: InstanceStatus::Unreachable, details: reason },
        Ok(()) if took > registry.settings.probe_degraded_after => Finding {
            status: InstanceStatus::Degraded,
            details: format!("slow: it took {} ms to answer", took.as_millis()),
        },
        Ok(()) => Finding { status: InstanceStatus::Healthy, details: String::new() },
    })
}

/// Why a probe got no answer.
enum Failure {
    /// This machine lacked something: descriptors, ports, memory.
    Here,
    There(String),
}

async fn reach(registry: &Registry, entry: &Entry) -> Result<(), Failure> {
    let connection =
        registry.platform.outbound.dial(&entry.url, &entry.row.slug).await.map_err(|error: DialError| {
            match error.is_local() {
                true => Failure::Here,
                false => Failure::There(error.to_string()),
            }
        })?;
    if entry.row.health_path.is_empty() {
        return Ok(());
    }
    let path = &entry.row.health_path;
    let failed = |error: hyper::Error| Failure::There(format!("GET {path}: {error}"));
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(failed)?;
    let request = Request::get(path.as_str())
        .header(header::HOST, entry.url.authority())
        .header(header::USER_AGENT, "openorch-health")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::There(format!("GET {path}: {error}")))?;
    let answer = async { sender.send_request(request).await.map_err(failed) };
    tokio::select! {
        answer = answer => {
            let status = answer?.status();
            let well = status.is_success() || status.is_redirection();
            if well { Ok(()) } else { Err(Failure::There(format!("GET {path} answered {status}"))) }
        }
        ended = driver => Err(match ended {
            Ok(()) => Failure::There(format!("GET {path}: the connection was closed without an answer")),
            Err(error) => failed(error),
        }),
    }
}

/// Stores the new status, which counts after a start until the first probe. Another change meanwhile is fine: the next
/// probe finds the same again.
async fn note(registry: &Registry, id: &str, finding: &Finding) -> Result<()> {
    let Some(Stored { version, value: mut row, .. }) = registry.instances.get(id).await? else { return Ok(()) };
    row.status = finding.status;
    row.details.clone_from(&finding.details);
    let batch = Batch::new().with(registry.instances.replace(id, &row, Some(version))?);
    match registry.platform.store.commit(batch).await.map_err(openorch_chassis::Error::from) {
        Err(error) if !error.is_lost_race() => return Err(error),
        _ => {}
    }
    if let Some(stored) = registry.instances.get(id).await? {
        registry.live.noted(stored.value, stored.version);
    }
    Ok(())
}
