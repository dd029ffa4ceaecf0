//! Reading and maintaining the audit log. Entries are written by `openorch_chassis::audit`.

use std::sync::Arc;

use openorch_api::{
    Body, Json, Slug,
    audit::AuditEntry,
    user::{ListAuditRequest, ListAuditResponse},
};
use openorch_chassis::{
    Cx, Error, Platform, Result,
    audit::{Audit, ENTRIES},
};
use openorch_store::{Cursor, Filter, Query, Table};

use crate::user::shared::{accounts::Accounts, settings::AuditSettings};

const DEFAULT_PAGE_SIZE: u64 = 100;

pub struct AuditLog {
    platform: Platform,
    settings: AuditSettings,
    accounts: Accounts,
    /// Written by the chassis, in the format in which they are listed.
    pub entries: Table<AuditEntry>,
}

pub async fn list(cx: Cx<AuditLog>, Body(request): Body<ListAuditRequest>) -> Result<Json<ListAuditResponse>> {
    let is_id = match request.actor.as_deref().filter(|actor| !actor.is_empty()) {
        Some(actor) => cx.is_id(actor).await?,
        None => false,
    };
    // Both queries have the same order, so their first pages contain the first entries of the union.
    let (mut found, mut has_more, mut most) = (Vec::new(), false, usize::MAX);
    for query in queries(request, is_id)? {
        let page = cx.entries.page(&query).await?;
        found.extend(page.items.into_iter().map(|row| {
            let mut entry = row.value;
            Audit::cut_targets(&mut entry);
            entry
        }));
        most = query.limit.map_or(most, |limit| limit as usize);
        has_more |= page.next.is_some();
    }
    found.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.id.cmp(&a.id)));
    found.dedup_by(|a, b| a.id == b.id);
    has_more |= found.len() > most;
    found.truncate(most);
    let next = found
        .last()
        .filter(|_| has_more)
        .map(|last| Cursor { values: vec![last.at.to_string().into()], id: Some(last.id.clone()) });
    let next = next.as_ref().map(crate::query::to_wire).unwrap_or_default();
    Ok(Json(ListAuditResponse { entries: found, next }))
}

/// The queries of a request, whose results are merged. `is_id`: the actor is an account id, not a slug.
pub fn queries(request: ListAuditRequest, is_id: bool) -> Result<Vec<Query>> {
    let limit = request.limit.filter(|limit| *limit > 0).unwrap_or(DEFAULT_PAGE_SIZE);
    let actor = request.actor.map(|actor| (if is_id { "actorId" } else { "actorSlug" }, actor));
    let named = request.operation.map(|operation| ("operation", operation)).into_iter().chain(actor);
    let mut query = Query::all().descending("at").limit(limit);
    for (field, value) in named.filter(|(_, value)| !value.is_empty()) {
        query = query.equals(field, value);
    }
    if let Some(outcome) = request.outcome {
        query = query.equals("outcome", serde_json::to_value(outcome).map_err(Error::internal)?);
    }
    let bound =
        |time: Option<openorch_api::Time>| time.filter(|time| !time.is_zero()).map(|time| time.to_string().into());
    let (from, until) = (bound(request.from), bound(request.until));
    if from.is_some() || until.is_some() {
        query = query.filter(Filter::range("at", from, until));
    }
    query.after = crate::query::cursor_by_field(request.after)?;
    let Some(target) = request.target.filter(|target| !target.is_empty()) else { return Ok(vec![query]) };
    // Entries of older versions have only `target`, and users may search for its whole text.
    Ok(vec![query.clone().intersects("targets", [target.as_str()]), query.equals("target", target)])
}

impl AuditLog {
    pub fn new(platform: &Platform, accounts: Accounts) -> Result<AuditLog> {
        let (settings, entries) = (platform.settings()?, platform.table(&ENTRIES));
        Ok(AuditLog { settings, accounts, entries, platform: platform.clone() })
    }

    /// Whether the actor is an account id and not a slug. Slugs contain no `_` and generated ids do; an id chosen at
    /// account creation may look like a slug, and then the slug takes precedence.
    async fn is_id(&self, actor: &str) -> Result<bool> {
        if Slug::parse(actor).is_err() {
            return Ok(true);
        }
        Ok(self.accounts.by_slug(actor).await?.is_none() && self.accounts.users.get(actor).await?.is_some())
    }
}

/// Writes aggregated entries and limits the size of the log.
pub async fn write_aggregated(log: Arc<AuditLog>) {
    log.platform.audit.flush_aggregated(false).await;
    if let Err(error) = log.platform.audit.trim_to(log.settings.max_entries).await {
        tracing::warn!("cannot remove the oldest entries of the oversized audit log, retrying: {error}");
    }
}

pub async fn remove_old(log: Arc<AuditLog>) {
    if !log.platform.expiry.may_expire(log.settings.retention) {
        return;
    }
    if let Err(error) = log.platform.audit.remove_older_than(log.settings.retention).await {
        tracing::warn!("cannot remove old entries of the audit log, retrying: {error}");
    }
}
