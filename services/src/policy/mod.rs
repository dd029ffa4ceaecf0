//! Policies: rate limits and blocked addresses. All policies are stored and cached in memory; rate limit counters are
//! only in memory, so that a check writes nothing.

mod counters;
mod rows;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use openorch_api::{
    Body, Json, Path, Time,
    input::check_name,
    policy::{
        self as api, CheckRequest, CheckResponse, Entity, ListInstancesResponse, PolicyId, PolicyInstance, RateLimit,
        Scope, UpsertInstanceRequest,
    },
    user::Empty,
};
use openorch_chassis::{
    Cx, Error, Module, Platform, Result, ServiceBuilder, audit::CallAudit, forwarded::client_network,
    identity::AppDeletionHook, outbound::Cidr, service::retry, settings, settings::Settings as _,
};
use openorch_store::{Batch, Filter, Guard, INDETERMINATE_WINDOW, Query, Table};

use self::{
    counters::{Counters, Rate},
    rows::{POLICIES, PolicyRow},
};

settings! {
    /// Policies: `[policy]`.
    pub struct PolicySettings in "policy" {
        /// Maximum number of policies per app.
        max_policies_per_app: u64 = "1000";
        /// Maximum number of rate limit counters in memory, a tenth of them for one account; beyond it, the least used
        /// are evicted.
        max_counters: u64 = "100000";
    }
}

/// A policy in parsed form.
struct Rule {
    row_id: String,
    app: String,
    instance: PolicyInstance,
    kind: RuleKind,
}

enum RuleKind {
    Rate { rate: Rate, entity: Entity, scope: Scope },
    Blocked(Vec<Cidr>),
}

struct Policies {
    platform: Platform,
    settings: PolicySettings,
    table: Table<PolicyRow>,
    /// Blocklists first, then rate limits, each by age: a request that is blocked is not counted.
    rules: ArcSwap<Vec<Rule>>,
    counters: Counters,
    /// Held while a policy is saved.
    save_lock: tokio::sync::Mutex<()>,
    /// Held while the policies are reloaded.
    reload_lock: tokio::sync::Mutex<()>,
    /// Unix time until which a commit of unknown outcome may still be applied.
    pending_until: AtomicI64,
}

/// The policy service as one of the daemon's services.
pub const MODULE: Module = Module {
    settings: &[PolicySettings::SECTION],
    collections: &[&POLICIES],
    start: |platform| {
        Box::pin(async {
            Ok(ServiceBuilder::new(api::SERVICE.slug, open(platform).await?)
                .on(api::CHECK, check)
                .on(api::UPSERT_INSTANCE, upsert)
                .on(api::LIST_INSTANCES, list)
                .on(api::DELETE_INSTANCE, delete)
                .on_app_deletion()
                .every(Duration::from_secs(1), "reconcile policies", reconcile)
                .build())
        })
    },
};

async fn open(platform: &Platform) -> Result<Arc<Policies>> {
    let settings: PolicySettings = platform.settings()?;
    let policies = Policies {
        table: platform.table(&POLICIES),
        counters: Counters::new(settings.max_counters),
        platform: platform.clone(),
        settings,
        rules: ArcSwap::default(),
        save_lock: tokio::sync::Mutex::default(),
        reload_lock: tokio::sync::Mutex::default(),
        pending_until: AtomicI64::new(i64::MIN),
    };
    policies.reload().await?;
    let policies = Arc::new(policies);
    let counted = Arc::downgrade(&policies);
    platform.metrics.gauge("policy_counters", "Counters of rate limits held in memory", move || {
        counted.upgrade().map(|policies| policies.counters.count() as u64)
    });
    Ok(policies)
}

async fn check(cx: Cx<Policies>, Body(request): Body<CheckRequest>) -> Result<Json<CheckResponse>> {
    let address = match request.ip.as_str() {
        "" => None,
        text => {
            let address: IpAddr =
                text.parse().map_err(|_| Error::invalid(format!("ip: `{text}` is not an address")))?;
            Some(address.to_canonical())
        }
    };
    let (caller, now) = (cx.caller()?, cx.platform.clock.now().as_microsecond());
    let rules = cx.rules.load();
    let mut app_rules = rules.iter().filter(|rule| *rule.app == *caller.app && rule.applies_to(&request.endpoint));
    let allowed = app_rules.all(|rule| match &rule.kind {
        RuleKind::Blocked(ranges) => !address.is_some_and(|address| ranges.iter().any(|range| range.contains(address))),
        RuleKind::Rate { rate, entity, scope } => {
            let endpoint = if *scope == Scope::Endpoint { request.endpoint.as_str() } else { "" };
            counter_key(*entity, &request, address)
                .is_none_or(|whose| cx.counters.take(&caller.user_id, &[&rule.row_id, &whose, endpoint], *rate, now))
        }
    });
    Ok(Json(CheckResponse { allowed }))
}

/// The counter key: the account or network whose requests are counted together; `None` if the request has neither. IPv6
/// addresses are counted per /64, the smallest network usually assigned to a customer.
fn counter_key(entity: Entity, request: &CheckRequest, address: Option<IpAddr>) -> Option<String> {
    match entity {
        Entity::UserId => Some(request.user_id.clone()).filter(|id| !id.is_empty()),
        Entity::Ip => address.map(|address| client_network(address).to_string()),
    }
}

async fn upsert(
    cx: Cx<Policies>,
    (Path(id), Body(request)): (Path<PolicyId>, Body<UpsertInstanceRequest>),
) -> Result<Json<Empty>> {
    let instance = request.instance;
    let app = cx.caller()?.app.to_string();
    check_name("instanceId", &id.0, 128).map_err(|error| Error::invalid(error.0))?;
    RuleKind::parse(&instance)?;
    let row_id = row_id(&app, &id.0);
    // Serializes saves, so that the network quota is checked against the latest policies.
    let _saving = cx.save_lock.lock().await;
    cx.check_network_quota(&app, &row_id, &instance)?;
    retry(|| async {
        let existing = cx.table.get(&row_id).await?;
        let created_at = existing.as_ref().map_or_else(|| cx.platform.now(), |known| known.value.instance.created_at);
        let instance = PolicyInstance { id: id.0.clone(), created_at, ..instance.clone() };
        let row = PolicyRow { app: app.clone(), instance };
        let batch = match existing {
            Some(known) if known.value.instance == row.instance => return Ok(()),
            Some(known) => cx.table.replace(&row_id, &row, Some(known.version))?.into(),
            None => {
                let max = cx.settings.max_policies_per_app;
                let of_app = vec![Filter::equals("app", app.as_str())];
                if cx.table.count(&of_app).await? >= max {
                    return Err(Error::new(
                        &api::TOO_MANY_POLICIES,
                        format!(
                            "the app has {max} policies, the maximum; delete some, or have an operator raise \
                             OPENORCH_POLICY_MAX_POLICIES_PER_APP"
                        ),
                    ));
                }
                Batch::from(cx.table.create(&row_id, &row)?).require(Guard::at_most(POLICIES.name, of_app, max))
            }
        };
        cx.commit(&cx.request.audit, batch).await
    })
    .await?;
    Ok(Json(Empty {}))
}

async fn list(cx: Cx<Policies>, (): ()) -> Result<Json<ListInstancesResponse>> {
    let (app, rules) = (&cx.caller()?.app, cx.rules.load());
    let mut instances: Vec<PolicyInstance> =
        rules.iter().filter(|rule| *rule.app == **app).map(|rule| rule.instance.clone()).collect();
    instances.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    Ok(Json(ListInstancesResponse { instances }))
}

async fn delete(cx: Cx<Policies>, Path(id): Path<PolicyId>) -> Result<Json<Empty>> {
    let row_id = row_id(&cx.caller()?.app, &id.0);
    let deleted = cx.commit(&cx.request.audit, cx.table.delete(&row_id, None).into()).await;
    deleted.map_err(|error| match error.code.status {
        404 => Error::new(&api::NO_SUCH_POLICY, format!("there is no policy `{}`", id.0)),
        _ => error,
    })?;
    Ok(Json(Empty {}))
}

/// Reloads the policies while a commit of unknown outcome may still be applied.
async fn reconcile(policies: Arc<Policies>) {
    if policies.pending_until.load(Ordering::SeqCst) < policies.platform.now().0.as_second() {
        return;
    }
    if let Err(error) = policies.reload().await {
        tracing::debug!("cannot reload the policies, retrying: {error:?}");
    }
}

const OWNED_COLLECTIONS: &[(&str, &str)] = &[(POLICIES.name, "policies")];

impl AppDeletionHook for Policies {
    fn collections(&self) -> &'static [(&'static str, &'static str)] {
        OWNED_COLLECTIONS
    }

    fn app_deleted(&self) {
        // Reloads every second for a while: the outcome of the app's deletion may be unknown.
        let until = self.platform.now().0.as_second() + INDETERMINATE_WINDOW.as_secs() as i64;
        self.pending_until.fetch_max(until, Ordering::SeqCst);
    }
}

/// Maximum number of networks that the policies of one app block: each check scans them all.
const MAX_NETWORKS_PER_APP: usize = 10_000;

impl Policies {
    fn check_network_quota(&self, app: &str, row_id: &str, instance: &PolicyInstance) -> Result<()> {
        let rules = self.rules.load();
        let others = rules.iter().filter(|rule| *rule.app == *app && *rule.row_id != *row_id).map(|rule| &rule.kind);
        let others: usize =
            others.map(|test| if let RuleKind::Blocked(ranges) = test { ranges.len() } else { 0 }).sum();
        let own = instance.parameters.blocklist.as_ref().map_or(0, |list| list.blocked_ips.len());
        if own > 0 && others + own > MAX_NETWORKS_PER_APP {
            return Err(Error::new(
                &api::TOO_MANY_NETWORKS,
                format!(
                    "the policies of the app block {others} addresses and networks, and {own} more would exceed the limit of \
                     {MAX_NETWORKS_PER_APP}; merge some of them, or delete policies"
                ),
            ));
        }
        Ok(())
    }

    /// Commits a batch and reloads the policies.
    async fn commit(&self, call: &CallAudit, batch: Batch) -> Result<()> {
        if let Err(error) = self.platform.commit(call, batch).await {
            if error.outcome_unknown() {
                let until = self.platform.now().0.as_second() + INDETERMINATE_WINDOW.as_secs() as i64;
                self.pending_until.fetch_max(until, Ordering::SeqCst);
            }
            return Err(error.into());
        }
        self.reload().await
    }

    async fn reload(&self) -> Result<()> {
        let _reading = self.reload_lock.lock().await;
        let mut rules = Vec::new();
        for stored in self.table.find(&Query::all()).await? {
            let PolicyRow { app, instance } = stored.value;
            // Written by a newer version.
            let Ok(test) = RuleKind::parse(&instance) else {
                tracing::warn!(
                    "the policy `{}` of `{app}` is not supported by this version and is not applied",
                    instance.id
                );
                continue;
            };
            rules.push(Rule { row_id: stored.id, app, instance, kind: test });
        }
        rules.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        self.rules.store(Arc::new(rules));
        Ok(())
    }
}

impl Rule {
    fn applies_to(&self, endpoint: &str) -> bool {
        match self.instance.endpoint.strip_suffix('*') {
            Some(start) => endpoint.starts_with(start),
            None => self.instance.endpoint.is_empty() || self.instance.endpoint == endpoint,
        }
    }

    fn sort_key(&self) -> (bool, Time, &str) {
        (matches!(self.kind, RuleKind::Rate { .. }), self.instance.created_at, &self.row_id)
    }
}

impl RuleKind {
    fn parse(instance: &PolicyInstance) -> Result<RuleKind> {
        let parameters = &instance.parameters;
        match instance.template_id.as_str() {
            "rate-limit" => {
                let limit =
                    parameters.rate_limit.as_ref().ok_or_else(|| missing_parameters("rateLimit", "rate-limit"))?;
                Ok(RuleKind::Rate { rate: parse_rate(limit)?, entity: limit.entity, scope: limit.scope })
            }
            "blocklist" => {
                let list = parameters.blocklist.as_ref().ok_or_else(|| missing_parameters("blocklist", "blocklist"))?;
                let ranges = list.blocked_ips.iter().map(|text| {
                    Cidr::parse(text).ok_or_else(|| {
                        Error::invalid(format!("blockedIPs: `{text}` is not an address or a network like 192.0.2.0/24"))
                    })
                });
                Ok(RuleKind::Blocked(ranges.collect::<Result<_>>()?))
            }
            other => Err(Error::invalid(format!("templateId: `{other}` is not one of rate-limit, blocklist"))),
        }
    }
}

const MAX_WINDOW: Duration = Duration::from_secs(30 * 24 * 3600);

fn parse_rate(limit: &RateLimit) -> Result<Rate> {
    let RateLimit { max_requests, time_window, .. } = limit;
    let window = time_window.parse::<jiff::SignedDuration>().ok().and_then(|window| Duration::try_from(window).ok());
    match window.filter(|window| (Duration::from_secs(1)..=MAX_WINDOW).contains(window)) {
        Some(window) => Ok(Rate { max_requests: *max_requests, window }),
        None => Err(Error::invalid(format!(
            "timeWindow: `{time_window}` is not a duration like 30s, 1m or 24h, from a second to 30 days"
        ))),
    }
}

fn missing_parameters(parameters: &str, template: &str) -> Error {
    Error::invalid(format!("parameters.{parameters} is required with the template `{template}`"))
}

/// App names contain no spaces, so the id is unique.
fn row_id(app: &str, id: &str) -> String {
    format!("{app} {id}")
}
