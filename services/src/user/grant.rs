//! Grants and permits: a permission for accounts by slug, and with permits for all who have one of some roles. One row
//! seen in two ways.

use openorch_api::{
    Body, Json, Path, Slug,
    user::{
        Empty, GRANT_CREATE, Grant, GrantId, ListGrantsRequest, ListGrantsResponse, ListPermitsRequest,
        ListPermitsResponse, Permit, SaveGrantsRequest, SavePermitsRequest,
    },
};
use openorch_chassis::{Caller, Cx, Error, Identity, Result};
use openorch_store::Batch;

use super::{
    Users,
    rows::{ALL_APPS, GrantRow},
    rules::{Change, Rules, check_count, check_id, shown},
};

const MAX_SAVED: usize = 1000;
const MAX_NAMED: usize = 1000;
/// Rules are held in memory: an account that is no admin has room for so many permits.
const MAX_OWNED: usize = 1000;

/// What is saved, whichever of the two forms it came in.
struct Wanted {
    id: String,
    permission_id: String,
    slugs: Vec<String>,
    /// Left as they are where a grant says nothing of them.
    role_ids: Option<Vec<String>>,
    app: Option<String>,
}

pub async fn save(cx: Cx<Users>, Body(request): Body<SaveGrantsRequest>) -> Result<Json<Empty>> {
    let wanted = request.grants.into_iter().map(|grant| Wanted {
        id: grant.id,
        permission_id: grant.permission_id,
        slugs: grant.slugs,
        role_ids: None,
        app: None,
    });
    save_all(&cx, "grants", wanted.collect()).await
}

pub async fn save_permits(cx: Cx<Users>, Body(request): Body<SavePermitsRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let mut wanted = Vec::new();
    for permit in request.permits {
        let slug = permit.permission.split_once(':').map(|(slug, _)| slug);
        if slug != Some(&*caller.slug) && !caller.is_admin() {
            return Err(Error::forbidden(format!(
                "a permit for `{}` is its owner's or an admin's to give; yours start with `{}:`",
                shown(&permit.permission),
                caller.slug
            )));
        }
        let app = match permit.app_host.as_str() {
            "" => caller.app.to_string(),
            ALL_APPS if caller.is_admin() => ALL_APPS.to_owned(),
            ALL_APPS => return Err(Error::forbidden("permits for all apps are for admins to give")),
            host => cx.app_of_host(host)?.to_string(),
        };
        wanted.push(Wanted {
            id: permit.id,
            permission_id: permit.permission,
            slugs: permit.slugs,
            role_ids: Some(permit.roles),
            app: Some(app),
        });
    }
    save_all(&cx, "permits", wanted).await
}

async fn save_all(cx: &Cx<Users>, what: &str, mut wanted: Vec<Wanted>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    check_count(what, wanted.len(), MAX_SAVED)?;
    for one in &mut wanted {
        check(one)?;
    }
    let now = cx.now();
    // A grant counts in all apps; one of who may save them in some apps alone counts where it was saved.
    let own = cx.known_account(&caller.user_id).await?;
    let may_everywhere = caller.is_admin() || cx.allows(&own.caller_in(ALL_APPS), GRANT_CREATE.id);
    let usual_app = if may_everywhere { ALL_APPS } else { &*caller.app };
    cx.change_rules(|rules| {
        let mut changes = Vec::new();
        let mut fresh = 0;
        for one in wanted {
            one.app.as_deref().map_or(Ok(None), |app| cx.in_app(app))?;
            let before = rules.grants.get(one.id.as_str());
            if before.is_some_and(|row| !is_own(caller, row)) {
                return Err(Error::forbidden(format!("the permit `{}` is another account's", one.id)));
            }
            // What was there stays as far as it is about the same permission; else nothing of it, its owner included.
            let kept = before.filter(|row| row.permission_id == one.permission_id);
            let row = GrantRow {
                id: if one.id.is_empty() { cx.shared.ids.next("grn") } else { one.id },
                permission_id: one.permission_id,
                slugs: one.slugs,
                role_ids: one.role_ids.unwrap_or_else(|| kept.map_or_else(Vec::new, |row| row.role_ids.clone())),
                app: one.app.or_else(|| kept.map(|row| row.app.clone())).unwrap_or_else(|| usual_app.to_owned()),
                owner_id: kept.map_or_else(|| caller.user_id.to_string(), |row| row.owner_id.clone()),
                created_at: before.map_or(now, |row| row.created_at),
                updated_at: now,
            };
            // A service saves the same permits at every start.
            let is_saved = |change: &Change| matches!(change, Change::SaveGrant(known) if is_same(known, &row));
            let is_known = rules.grants.values().any(|known| is_same(known, &row)) || changes.iter().any(is_saved);
            if before.is_none() && is_known {
                continue;
            }
            fresh += usize::from(before.is_none());
            changes.push(Change::SaveGrant(row));
        }
        refuse_too_many(caller, rules, fresh)?;
        Ok((changes, Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}

fn check(one: &mut Wanted) -> Result<()> {
    if one.permission_id.is_empty() {
        return Err(Error::invalid("which permission? it is named by its id, for example `my-service:page:view`"));
    }
    check_id("permission", &one.permission_id)?;
    if !one.id.is_empty() {
        openorch_api::input::check_name("id", &one.id, 128).map_err(|error| Error::invalid(error.0))?;
    }
    let roles = one.role_ids.as_deref().unwrap_or_default();
    check_count("slugs and roles", one.slugs.len() + roles.len(), MAX_NAMED)?;
    for slug in &one.slugs {
        Slug::parse(slug).map_err(|error| Error::invalid(error.0))?;
    }
    for role in roles {
        openorch_api::input::check_name("role", role, 256).map_err(|error| Error::invalid(error.0))?;
    }
    for names in [Some(&mut one.slugs), one.role_ids.as_mut()].into_iter().flatten() {
        names.sort();
        names.dedup();
    }
    Ok(())
}

pub async fn list(cx: Cx<Users>, Body(request): Body<ListGrantsRequest>) -> Result<Json<ListGrantsResponse>> {
    let rows = found(&cx, request.permission_id, request.slug)?;
    let grants = rows.into_iter().filter(|row| !row.slugs.is_empty() || row.role_ids.is_empty());
    let grants = grants.map(|row| Grant { id: row.id, permission_id: row.permission_id, slugs: row.slugs });
    Ok(Json(ListGrantsResponse { grants: grants.collect() }))
}

pub async fn list_permits(cx: Cx<Users>, Body(request): Body<ListPermitsRequest>) -> Result<Json<ListPermitsResponse>> {
    let rows = found(&cx, request.permission, request.slug)?;
    let permits = rows.into_iter().map(|row| Permit {
        app_id: row.app,
        id: row.id,
        created_at: row.created_at,
        updated_at: row.updated_at,
        permission: row.permission_id,
        slugs: row.slugs,
        roles: row.role_ids,
    });
    Ok(Json(ListPermitsResponse { permits: permits.collect() }))
}

pub async fn delete(cx: Cx<Users>, Path(id): Path<GrantId>) -> Result<Json<Empty>> {
    cx.change_rules(|rules| {
        known(rules, &id)?;
        Ok((vec![Change::DeleteGrant(id.0.clone())], Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}

/// Whose a grant is, for rows that let the owner in.
pub fn owner(users: &Users, id: &GrantId) -> Result<String> {
    known(&users.memory.rules(), id).map(|row| row.owner_id.clone())
}

fn known<'a>(rules: &'a Rules, id: &GrantId) -> Result<&'a GrantRow> {
    match rules.grants.get(id.0.as_str()) {
        Some(row) => Ok(row),
        None => Err(Error::not_found(format!("there is no grant `{}`", id.0))),
    }
}

/// By id, so that they come in the order in which they were made.
fn found(cx: &Cx<Users>, permission: Option<String>, slug: Option<String>) -> Result<Vec<GrantRow>> {
    let (permission, slug) = (permission.filter(|id| !id.is_empty()), slug.filter(|slug| !slug.is_empty()));
    let rules = cx.memory.rules();
    let fits = |row: &&std::sync::Arc<GrantRow>| {
        permission.as_ref().is_none_or(|id| row.permission_id == *id)
            && slug.as_ref().is_none_or(|slug| row.slugs.contains(slug))
    };
    let mut rows: Vec<GrantRow> = rules.grants.values().filter(fits).map(|row| GrantRow::clone(row)).collect();
    cx.shared.refuse_long_list(rows.len(), "grants", "name a permission or a slug")?;
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(rows)
}

fn is_own(caller: &Caller, row: &GrantRow) -> bool {
    caller.is_admin() || *row.owner_id == *caller.user_id
}

fn is_same(a: &GrantRow, b: &GrantRow) -> bool {
    (&a.permission_id, &a.slugs, &a.role_ids, &a.app) == (&b.permission_id, &b.slugs, &b.role_ids, &b.app)
}

fn refuse_too_many(caller: &Caller, rules: &Rules, fresh: usize) -> Result<()> {
    let owned = rules.grants.values().filter(|row| *row.owner_id == *caller.user_id).count();
    if fresh > 0 && owned + fresh > MAX_OWNED && !caller.is_admin() {
        return Err(Error::forbidden(format!("an account may have {MAX_OWNED} permits; delete some")));
    }
    Ok(())
}
