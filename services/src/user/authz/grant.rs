//! Grants and permits: a permission for accounts by slug, and with permits also for all accounts that have one of some
//! roles. Both are views of the same row.

use std::{collections::HashSet, sync::Arc};

use openorch_api::{
    Body, Json, Path,
    error::access,
    user::{
        Empty, GRANT_CREATE, GrantId, ListGrantsRequest, ListGrantsResponse, ListPermitsRequest, ListPermitsResponse,
        SaveGrantsRequest, SavePermitsRequest, errors,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result};
use openorch_store::Batch;

use crate::{
    query::Paging,
    user::{
        authz::{
            rows::GrantRow,
            rules::{
                AccessRules, Change,
                usage::{self, GrantDigest},
            },
            state::Authz,
        },
        shared::{quote::quote, rows::ALL_APPS},
    },
};

/// A grant or permit to be saved.
struct GrantInput {
    id: String,
    permission_id: String,
    slugs: Vec<String>,
    /// Roles and app stay unchanged for a grant, which does not name them.
    role_ids: Option<Vec<String>>,
    app: Option<String>,
}

pub async fn save(cx: Cx<Authz>, Body(request): Body<SaveGrantsRequest>) -> Result<Json<Empty>> {
    let wanted = request.grants.into_iter().map(|grant| GrantInput {
        id: grant.id,
        permission_id: grant.permission_id,
        slugs: grant.slugs,
        role_ids: None,
        app: None,
    });
    save_all(&cx, wanted.collect()).await
}

/// A permit needs a permission under the caller's slug.
pub fn may_save_permits(cx: &Cx<Authz>, Body(request): &Body<SavePermitsRequest>) -> Result<()> {
    let caller = cx.caller()?;
    let is_own = |permission: &str| permission.split_once(':').is_some_and(|(slug, _)| *slug == *caller.slug);
    match request.permits.iter().find(|permit| !is_own(&permit.permission) && !caller.is_admin()) {
        None => Ok(()),
        Some(foreign) => Err(Error::new(
            &errors::PERMISSION_OF_ANOTHER,
            format!(
                "only its owner or an admin may save a permit for `{}`; your permissions start with `{}:`",
                quote(&foreign.permission),
                caller.slug
            ),
        )),
    }
}

pub async fn save_permits(cx: Cx<Authz>, Body(request): Body<SavePermitsRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let mut wanted = Vec::new();
    for permit in request.permits {
        let app = match permit.app_host.as_str() {
            "" => caller.app.to_string(),
            ALL_APPS if caller.is_admin() => ALL_APPS.to_owned(),
            ALL_APPS => return Err(Error::new(&errors::ADMINS_ONLY, "only admins may save permits for all apps")),
            host => cx.app_of_host(host)?.to_string(),
        };
        wanted.push(GrantInput {
            id: permit.id,
            permission_id: permit.permission,
            slugs: permit.slugs,
            role_ids: Some(permit.roles),
            app: Some(app),
        });
    }
    save_all(&cx, wanted).await
}

async fn save_all(cx: &Cx<Authz>, mut wanted: Vec<GrantInput>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    for input in &mut wanted {
        sort_names(input);
    }
    // A grant is valid in all apps if the caller may save grants in all of them, otherwise in the caller's app.
    let own = cx.require_account(&caller.user_id).await?;
    let may_everywhere = caller.is_admin() || cx.allows(&own.caller_in(ALL_APPS), GRANT_CREATE.id);
    if may_everywhere && !caller.is_admin() {
        cx.request
            .audit
            .require_permission_guards(cx.rules().permission_guards(&own.caller_in(ALL_APPS), GRANT_CREATE.id));
    }
    let default_app = if may_everywhere { ALL_APPS } else { &*caller.app };
    // The digests are computed before the rules are locked, since there may be very many names.
    let fresh: Vec<(GrantInput, GrantRow, GrantDigest)> = wanted
        .into_iter()
        .map(|one| {
            let row = cx.new_row(caller, &one, default_app);
            let content = usage::grant_digest(&row);
            (one, row, content)
        })
        .collect();
    if usage::is_limited(caller) {
        // Before the rules are locked too: a change that is only refused at its end holds up those of others.
        let rules = cx.rules();
        let (has, mut saved) = (rules.usage(&caller.user_id), HashSet::new());
        let mut adds =
            |one: &GrantInput, row: &GrantRow, content: &GrantDigest| match row_to_replace(&rules, caller, &one.id) {
                Some(before) => usage::name_count(row) > usage::name_count(before),
                None => !has.has_grant(content) && saved.insert(*content),
            };
        let added = fresh.iter().filter(|(one, row, content)| adds(one, row, content)).map(|(_, row, _)| row);
        usage::check_new_grants(added, &cx.limits)?;
    }
    cx.change_rules_of(cx, |rules| {
        let mut changes = Vec::new();
        let has = rules.usage(&caller.user_id);
        let mut saved = HashSet::new();
        for (one, row, content) in fresh {
            one.app.as_deref().map_or(Ok(None), |app| cx.require_app(app))?;
            match row_to_replace(rules, caller, &one.id) {
                Some(before) => {
                    let names_app = one.app.is_some();
                    let row = merged_row(before, one, row);
                    // A grant keeps its app, which may be another than that in which the caller may save grants.
                    if !(names_app || may_everywhere || *row.app == *caller.app) {
                        let there = own.caller_in(&row.app);
                        if !rules.allow(&there, GRANT_CREATE.id) {
                            return Err(counts_elsewhere(&row));
                        }
                        cx.request.audit.require_permission_guards(rules.permission_guards(&there, GRANT_CREATE.id));
                    }
                    changes.push(Change::SaveGrant(row));
                }
                // A service saves the same permits at every start.
                None if has.has_grant(&content) || !saved.insert(content) => {}
                // An admin may have saved one under an id with the caller's slug.
                None if rules.grants.contains_key(row.id.as_str()) => {
                    return Err(Error::new(
                        &errors::GRANT_ID_TAKEN,
                        format!("the id `{}` is used by a grant or permit of another account; choose another", row.id),
                    ));
                }
                None => changes.push(Change::SaveGrant(row)),
            }
        }
        Ok((changes, Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}

impl Authz {
    /// The row to be created if none exists.
    fn new_row(&self, caller: &Caller, one: &GrantInput, usual_app: &str) -> GrantRow {
        let now = self.now();
        GrantRow {
            id: if one.id.is_empty() { self.platform.ids.next("grn") } else { qualified_id(caller, &one.id) },
            permission_id: one.permission_id.clone(),
            slugs: one.slugs.clone(),
            role_ids: one.role_ids.clone().unwrap_or_default(),
            app: one.app.clone().unwrap_or_else(|| usual_app.to_owned()),
            owner_id: caller.user_id.to_string(),
            created_at: now,
            updated_at: now,
        }
    }
}

/// Keeps the roles, app and owner of the old row if the permission is the same; otherwise replaces them.
fn merged_row(before: &GrantRow, one: GrantInput, row: GrantRow) -> GrantRow {
    let (id, created_at) = (before.id.clone(), before.created_at);
    if before.permission_id != row.permission_id {
        return GrantRow { id, created_at, ..row };
    }
    GrantRow {
        id,
        created_at,
        role_ids: one.role_ids.unwrap_or_else(|| before.role_ids.clone()),
        app: one.app.unwrap_or_else(|| before.app.clone()),
        owner_id: before.owner_id.clone(),
        ..row
    }
}

fn counts_elsewhere(row: &GrantRow) -> Error {
    Error::new(
        &access::PERMISSION_MISSING,
        format!(
            "the grant `{}` counts in other apps than yours, where you lack the permission `{}`: save one under another id, \
             delete this one, or ask an admin",
            quote(&row.id),
            GRANT_CREATE.id
        ),
    )
}

/// The id of a grant with a chosen id. Except for admins, it is prefixed with the account's slug, so that no account
/// can occupy ids of another. Admins share ids, so that one can replace what another saved.
fn qualified_id(caller: &Caller, id: &str) -> String {
    let is_own = id.split_once(':').is_some_and(|(slug, _)| *slug == *caller.slug);
    if caller.is_admin() || is_own { id.to_owned() } else { format!("{}:{id}", caller.slug) }
}

/// The existing row that is replaced by saving under this id.
fn row_to_replace<'a>(rules: &'a AccessRules, caller: &Caller, id: &str) -> Option<&'a GrantRow> {
    let is_own = |row: &&Arc<GrantRow>| caller.is_admin() || *row.owner_id == *caller.user_id;
    let found = [qualified_id(caller, id).as_str(), id].into_iter().find_map(|id| rules.grants.get(id).filter(is_own));
    found.map(AsRef::as_ref)
}

fn sort_names(input: &mut GrantInput) {
    for names in [Some(&mut input.slugs), input.role_ids.as_mut()].into_iter().flatten() {
        names.sort();
        names.dedup();
    }
}

pub async fn list(cx: Cx<Authz>, Body(request): Body<ListGrantsRequest>) -> Result<Json<ListGrantsResponse>> {
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let is_grant = |row: &GrantRow| !row.slugs.is_empty() || row.role_ids.is_empty();
    let (rows, next) = find_page(&cx, request.permission_id, request.slug, is_grant, paging)?;
    Ok(Json(ListGrantsResponse { grants: rows.iter().map(|row| (&**row).into()).collect(), next }))
}

pub async fn list_permits(cx: Cx<Authz>, Body(request): Body<ListPermitsRequest>) -> Result<Json<ListPermitsResponse>> {
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let (rows, next) = find_page(&cx, request.permission, request.slug, |_| true, paging)?;
    Ok(Json(ListPermitsResponse { permits: rows.iter().map(|row| (&**row).into()).collect(), next }))
}

pub async fn delete(cx: Cx<Authz>, Path(id): Path<GrantId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let account = cx.require_account(&caller.user_id).await?;
    cx.change_rules(&cx.request.audit, |rules| {
        // Looked up and checked under the lock: an id can match two rows, and the one that authorized the call may have
        // been deleted.
        let own = candidates(rules, caller, &id).find(|row| *row.owner_id == *caller.user_id);
        let may_delete =
            |row: &&GrantRow| caller.is_admin() || rules.allow(&account.caller_in(&row.app), GRANT_CREATE.id);
        let found =
            own.or_else(|| candidates(rules, caller, &id).find(may_delete)).ok_or_else(|| no_such_grant(&id))?;
        Ok((vec![Change::DeleteGrant(found.id.clone())], Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}

/// The owner of a grant, for operations that exempt the owner.
pub fn owner(cx: &Cx<Authz>, id: &GrantId) -> Result<String> {
    let (rules, caller) = (cx.rules(), cx.caller()?);
    let is_own = |row: &&GrantRow| *row.owner_id == *caller.user_id;
    let found = candidates(&rules, caller, id).find(is_own).or_else(|| candidates(&rules, caller, id).next());
    found.map(|row| row.owner_id.clone()).ok_or_else(|| no_such_grant(id))
}

/// The rows that this id may match: first the one that the caller would save under it, then the one listed with it.
fn candidates<'a>(rules: &'a AccessRules, caller: &Caller, id: &GrantId) -> impl Iterator<Item = &'a GrantRow> {
    let ids = [qualified_id(caller, &id.0), id.0.clone()];
    ids.into_iter().filter_map(|id| rules.grants.get(id.as_str()).map(AsRef::as_ref))
}

fn no_such_grant(id: &GrantId) -> Error {
    Error::new(
        &errors::NO_SUCH_GRANT,
        format!("there is no grant `{}`; POST /user-svc/permits lists their ids", quote(&id.0)),
    )
}

/// Sorted by id, which is the order of creation.
fn find_page(
    cx: &Cx<Authz>,
    permission: Option<String>,
    slug: Option<String>,
    fits: impl Fn(&GrantRow) -> bool,
    paging: Paging,
) -> Result<(Vec<Arc<GrantRow>>, String)> {
    let (permission, slug) = (permission.filter(|id| !id.is_empty()), slug.filter(|slug| !slug.is_empty()));
    let rules = cx.rules();
    let matches = |row: &&Arc<GrantRow>| {
        permission.as_ref().is_none_or(|id| row.permission_id == *id)
            && slug.as_ref().is_none_or(|slug| row.slugs.contains(slug))
            && fits(row)
    };
    let rows = rules.grants.values().filter(matches).map(|row| ([row.id.as_str()], row.clone()));
    paging.page(rows, "grants", "name a permission, a slug or a `limit`")
}
