//! The audit log as admins read it, and its upkeep. Who writes it: `openorch_chassis::audit`.

use std::sync::Arc;

use openorch_api::{
    Body, Json, Slug,
    user::{ListAuditRequest, ListAuditResponse},
};
use openorch_chassis::{Cx, Error, Result};
use openorch_store::{Filter, Query};

use super::Users;

const PAGE: u64 = 100;
const MAX_PAGE: u64 = 1000;

pub async fn list(cx: Cx<Users>, Body(request): Body<ListAuditRequest>) -> Result<Json<ListAuditResponse>> {
    let is_id = match request.actor.as_deref().filter(|actor| !actor.is_empty()) {
        Some(actor) => cx.is_id(actor).await?,
        None => false,
    };
    let page = cx.audit_entries.page(&asked(request, is_id)?).await?;
    let next = page.next.as_ref().map(crate::query::to_wire).unwrap_or_default();
    Ok(Json(ListAuditResponse { entries: page.items.into_iter().map(|row| row.value).collect(), next }))
}

/// The query of a request. `is_id`: the actor that it names is an account's id, not its slug.
pub(super) fn asked(request: ListAuditRequest, is_id: bool) -> Result<Query> {
    let limit = request.limit.filter(|limit| *limit > 0).unwrap_or(PAGE);
    if limit > MAX_PAGE {
        return Err(Error::invalid(format!("`limit` is at most {MAX_PAGE}; `next` goes on")));
    }
    let actor = request.actor.map(|actor| (if is_id { "actorId" } else { "actorSlug" }, actor));
    let named = [("operation", request.operation), ("target", request.target)];
    let named = named.into_iter().filter_map(|(field, value)| Some((field, value?))).chain(actor);
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
    query.after = crate::query::place_of(request.after)?;
    Ok(query)
}

impl Users {
    /// Whether this is the id of an account and not its slug. Slugs have no `_` in them and ids that we give have; one
    /// that was wished for at the account's making may look like a slug, which goes first.
    async fn is_id(&self, actor: &str) -> Result<bool> {
        if Slug::parse(actor).is_err() {
            return Ok(true);
        }
        Ok(self.by_slug(actor).await?.is_none() && self.users.get(actor).await?.is_some())
    }
}

/// Writes what the log only counts by now, and keeps it within its size.
pub async fn write_gathered(users: Arc<Users>) {
    users.shared.audit.write_gathered(false).await;
    if let Err(error) = users.shared.audit.remove_beyond(users.settings.audit_entries).await {
        tracing::warn!("the oldest entries of the audit log, which is too long, could not be removed yet: {error}");
    }
}

pub async fn remove_old(users: Arc<Users>) {
    if !users.shared.ages.may_end(users.settings.audit_retention) {
        return;
    }
    if let Err(error) = users.shared.audit.remove_older(users.settings.audit_retention).await {
        tracing::warn!("old entries of the audit log could not be removed yet: {error}");
    }
}
