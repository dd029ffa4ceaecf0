//! Accounts for admins: listing, searching, creating, changing and deleting.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use openorch_api::{
    Body, Json, Path, Slug, query,
    user::{
        CreateUserRequest, CreateUserResponse, DeletedSlug, Empty, GetUsersRequest, GetUsersResponse,
        ResetPasswordRequest, SaveSelfRequest, USER_CREATE, USER_DELETE, USER_EDIT, USER_PASSWORD_RESET, UserId,
        UserInput, errors,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result, audit::CallAudit, service::retry};
use openorch_store::{Batch, Filter, Guard, Query, StoreError, Stored, Write};

use crate::user::{
    authn::{
        passwords::{default_password::DEFAULT_ADMIN_PASSWORD, queue::Purpose},
        rows::{KNOWN_ADDRESSES, PASSWORDS, SESSIONS},
    },
    authz::{
        guards::assignment_guard,
        roles::{assignable::check_initial_roles, organization::organization_of},
        rows::{CONTACT_ENROLLS, DelegationRow, ROLE_LINKS, RoleLinkRow},
        rules::{AccessRules, Change},
    },
    directory::{new_account::no_such_role, profile::ProfileChange, rows::INVITATIONS, state::Directory},
    shared::{
        accounts::{ADMIN_SLUG, require_not_built_in},
        rows::{
            CONTACTS, DEFAULT_APP, TOMBSTONES, TombstoneRow, USERS, UserRow, id_tombstone, search_prefix,
            search_prefixes,
        },
    },
};

const DEFAULT_PAGE_SIZE: u64 = 20;
const MAX_PAGE: u64 = 1000;
/// Pending roles and invitations, and the field with their creator.
const PENDING_COLLECTIONS: &[(&str, &str)] = &[(CONTACT_ENROLLS.name, "createdBy"), (INVITATIONS.name, "createdById")];

pub async fn list(cx: Cx<Directory>, Body(request): Body<GetUsersRequest>) -> Result<Json<GetUsersResponse>> {
    let counts = request.count || request.query.as_ref().is_some_and(|query| query.count);
    let owner = async |contact: &Option<String>| match contact.as_deref().filter(|contact| !contact.is_empty()) {
        Some(contact) => Ok::<_, Error>(cx.accounts.by_contact(contact).await?.map(|row| row.value.user_id)),
        None => Ok(None),
    };
    let asked = account_query(&request, owner(&request.contact_id).await?, owner(&request.search).await?)?;
    let count = if counts { cx.accounts.users.count(&asked.filters).await? } else { 0 };
    let page = cx.accounts.users.page(&asked).await?;
    let next = page.next.as_ref().map(crate::query::to_wire).unwrap_or_default();
    let users = page.items.iter().map(|row| (&row.value).into()).collect();
    Ok(Json(GetUsersResponse { users, count, next, ..Default::default() }))
}

/// The query of a request. `has_contact` and `has_searched` are the owners of the contact that it names and of the one
/// that it searches for.
pub fn account_query(
    request: &GetUsersRequest,
    has_contact: Option<String>,
    has_searched: Option<String>,
) -> Result<Query> {
    let mut asked = wire_query(request)?;
    let is_given = |text: &&str| !text.is_empty();
    if request.contact_id.as_deref().filter(is_given).is_some() {
        asked.filters.push(Filter::is_in("id", has_contact));
    }
    if let Some(search) = request.search.as_deref().filter(is_given) {
        match has_searched {
            Some(owner) => asked.filters.push(Filter::equals("id", owner)),
            None => {
                let matches = vec![Filter::contains("slug", search), Filter::contains("name", search)];
                asked.filters.push(Filter::intersects("searchPrefixes", [search_prefix(search)]));
                asked.filters.push(Filter::Any(matches));
            }
        }
    }
    Ok(asked)
}

/// The query object of a request, combined with its shorthand parameters.
fn wire_query(request: &GetUsersRequest) -> Result<Query> {
    let mut wire = request.query.clone().unwrap_or_default();
    if wire.limit.unwrap_or_default() == 0 {
        wire.limit = request.limit;
    }
    let descends = request.order.as_deref() != Some("asc");
    if wire.order_bys.is_empty() {
        let field = match request.order_by.as_deref() {
            Some("updatedAt") => "updatedAt",
            _ => "createdAt",
        };
        wire.order_bys = vec![query::OrderBy { field: field.to_owned(), desc: descends, ..Default::default() }];
        if let Some(after) = request.after_time.filter(|time| !time.is_zero() && wire.json_after.is_empty()) {
            wire.json_after = serde_json::json!([after]).to_string();
        }
    }
    let mut query = crate::query::from_wire(&wire, DEFAULT_PAGE_SIZE, MAX_PAGE)?;
    if !request.ids.is_empty() {
        query = query.is_in("id", request.ids.clone());
    }
    Ok(query)
}

pub async fn create(cx: Cx<Directory>, Body(request): Body<CreateUserRequest>) -> Result<Json<CreateUserResponse>> {
    let input = request.user;
    let roles = request.role_ids.unwrap_or_else(|| vec![openorch_api::role::USER.to_owned()]);
    let rules = cx.authz.rules();
    if let Some(missing) = roles.iter().find(|role| !rules.roles.contains_key(role.as_str())) {
        return Err(no_such_role(missing));
    }
    let app = match request.app_host.as_str() {
        "" => cx.caller()?.app.clone(),
        host => cx.authz.app_of_host(host)?,
    };
    check_initial_roles(cx.caller()?, &roles, &app)?;
    // The initial roles make an account a member of an app. Only admins can add members to apps other than their own.
    let caller = cx.caller()?;
    let adds_member = caller.is_admin() || *caller.app == *app;
    let user = cx.new_user(input, request.contacts, if adds_member { &app } else { &caller.app })?;
    let link = |role: &String| {
        let link = RoleLinkRow::new(&app, &user.id, role, user.created_at);
        if adds_member { link } else { link.assigned_by(caller) }
    };
    let links: Vec<_> = roles.iter().map(link).collect();
    let password = match request.password.filter(|password| !password.is_empty()) {
        Some(password) => {
            cx.authn.passwords.check_new_password(&password, cx.request.is_local)?;
            Some(
                cx.authn
                    .passwords
                    .hash_password(&password, false, Purpose::KnownSignIn, cx.request.counted_address())
                    .await?,
            )
        }
        None => None,
    };
    let slug = Slug::parse(&user.slug).map_err(|error| Error::invalid(error.0))?;
    for role in roles.iter().filter(|role| **role != *openorch_api::role::USER) {
        cx.request.audit.require_permission_guards(assignment_guard(caller, role, &app));
    }
    let answer = CreateUserResponse { user: (&user).into() };
    cx.request.audit.set_answer(&answer)?;
    retry(|| async {
        // Hashing takes time, so the caller's rights are checked again.
        check_initial_roles(&cx.authz.current_caller(caller, &USER_CREATE).await?, &roles, &app)?;
        cx.check_id_is_unused(&user.id).await?;
        let (mut batch, _) = cx.create_account(&slug, &user, &links, Batch::new(), caller.is_admin()).await?;
        if let Some(password) = &password {
            batch.push(cx.authn.passwords.rows.create(&user.id, password)?);
        }
        cx.platform.commit(&cx.request.audit, batch).await.map_err(already_exists)?;
        Ok(())
    })
    .await?;
    Ok(Json(answer))
}

pub async fn save(
    cx: Cx<Directory>,
    (Path(id), Body(request)): (Path<UserId>, Body<SaveSelfRequest>),
) -> Result<Json<Empty>> {
    let user = cx.accounts.users.get(&id.0).await?.ok_or_else(no_such_account(&id))?.value;
    cx.authz.require_management(&cx.request.audit, cx.caller()?, &user, &USER_EDIT).await?;
    cx.save_profile(&cx.request.audit, &id.0, ProfileChange(request), no_such_account(&id)).await
}

pub async fn reset_password(
    cx: Cx<Directory>,
    (Path(id), Body(request)): (Path<UserId>, Body<ResetPasswordRequest>),
) -> Result<Json<Empty>> {
    let new = request.new_password;
    cx.authn.passwords.check_new_password(&new, cx.request.is_local)?;
    let caller = cx.caller()?;
    let user = cx.accounts.users.get(&id.0).await?.ok_or_else(no_such_account(&id))?.value;
    require_not_built_in(&user)?;
    cx.authz.require_takeover(&cx.request.audit, caller, &user, &USER_PASSWORD_RESET).await?;
    let is_default = user.slug == ADMIN_SLUG && new == DEFAULT_ADMIN_PASSWORD;
    let row =
        cx.authn.passwords.hash_password(&new, is_default, Purpose::KnownSignIn, cx.request.counted_address()).await?;
    retry(|| async {
        // Hashing takes time, so the caller's rights and the account's rights are checked again.
        let caller = cx.authz.current_caller(caller, &USER_PASSWORD_RESET).await?;
        let user = cx.accounts.users.get(&id.0).await?.ok_or_else(no_such_account(&id))?.value;
        cx.authz.require_takeover(&cx.request.audit, &caller, &user, &USER_PASSWORD_RESET).await?;
        let mut batch = Batch::new()
            .require(Guard::Exists { collection: USERS.name, id: id.0.clone() })
            .with(cx.authn.passwords.rows.upsert(&id.0, &row)?);
        batch.0.extend(not_admin_guard(&caller, &id.0));
        cx.authn.end_with_password(&cx.request.audit, (&id.0, &user.slug), None, batch).await?;
        Ok(Json(Empty {}))
    })
    .await
}

/// Deletes an account with everything it owns, in one transaction. If concurrent changes of the account prevent that, it is
/// first marked, and then nothing changes it any more: see `begin_deletion`.
pub async fn delete(cx: Cx<Directory>, Path(id): Path<UserId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let user = cx.accounts.users.get(&id.0).await?.ok_or_else(no_such_account(&id))?.value;
    require_not_built_in(&user)?;
    // Accounts that become admins of its organizations, in any attempt.
    let new_admins_lock = Mutex::new(BTreeSet::new());
    let new_admins = || new_admins_lock.lock().unwrap_or_else(PoisonError::into_inner);
    let attempts = AtomicU32::new(0);
    let is_marked = AtomicBool::new(false);
    // Whether this call may have set the mark: it takes away no mark of another one.
    let may_have_marked = AtomicBool::new(false);
    let deleted = retry(|| async {
        let Stored { version, value: user, .. } =
            cx.accounts.users.get(&id.0).await?.ok_or_else(no_such_account(&id))?;
        let caller_now = cx.authz.current_caller(caller, &USER_DELETE).await?;
        cx.authz.require_takeover(&cx.request.audit, &caller_now, &user, &USER_DELETE).await?;
        // The caller's own session must last until the end.
        let is_contended = attempts.fetch_add(1, Ordering::Relaxed) > 0 && *caller.user_id != *id.0;
        if is_contended && !is_marked.load(Ordering::Relaxed) {
            may_have_marked.store(true, Ordering::Relaxed);
            cx.begin_deletion(&cx.request.audit, caller, &user).await?;
            is_marked.store(true, Ordering::Relaxed);
        }
        let is_marked = is_marked.load(Ordering::Relaxed);
        if is_marked {
            cx.leave_organizations(&cx.request.audit, caller, &user.id).await?;
        }
        let mut batch: Batch = not_admin_guard(caller, &id.0).into_iter().collect();
        if is_marked {
            batch.push(Write::Require(Guard::Exists { collection: USERS.name, id: user.id.clone() }));
            for (collection, field) in [(USERS.name, "id"), (ROLE_LINKS.name, "userId")] {
                batch.push(Write::DeleteWhere { collection, filters: vec![Filter::equals(field, &*user.id)] });
            }
        } else {
            batch.push(cx.accounts.users.delete(&user.id, Some(version)));
        }
        for link in cx.authz.role_links.find(&Query::all().equals("userId", &*user.id)).await? {
            if !is_marked {
                batch.push(cx.authz.role_links.delete(&link.id, Some(link.version)));
            }
            let mut new_admins_of_one = Vec::new();
            batch = cx.without_member(&link.value, batch, &mut new_admins_of_one).await?;
            new_admins().extend(new_admins_of_one);
        }
        // A role assigned concurrently would outlive the account, and the account may be the last admin of an
        // organization by it. The retry handles it.
        batch = batch.require(Guard::at_most(ROLE_LINKS.name, vec![Filter::equals("userId", &*user.id)], 0));
        for collection in [SESSIONS.name, CONTACTS.name, KNOWN_ADDRESSES.name] {
            batch.push(Write::DeleteWhere { collection, filters: vec![Filter::equals("userId", &*user.id)] });
        }
        let password = vec![Filter::equals("id", &*user.id)];
        batch.push(Write::DeleteWhere { collection: PASSWORDS.name, filters: password });
        let tombstone = TombstoneRow { user_id: user.id.clone(), founder_id: String::new(), deleted_at: cx.now() };
        batch.push(cx.tombstones.create(&user.slug, &tombstone)?);
        batch.push(cx.tombstones.upsert(id_tombstone(&user.id), &tombstone)?);
        for other in &cx.deletion_hooks {
            batch.0.extend(other.cascade(&user.id).await?);
        }
        cx.authz.change_rules(&cx.request.audit, |rules| Ok((cascade_changes(rules, &user), batch))).await
    })
    .await;
    new_admins().iter().for_each(|id: &String| cx.authz.cache.rights_changed(id));
    if deleted.is_err() && may_have_marked.load(Ordering::Relaxed) {
        cx.give_up_deletion(&id.0).await;
    }
    deleted.inspect_err(|_| {
        // The account may be deleted nevertheless.
        cx.authn.sessions.cache.evict_account(&id.0, None);
        cx.authz.cache.rights_changed(&id.0);
        cx.pending_deletions().insert(id.0.clone());
    })?;
    cx.evict_account(&id.0);
    cx.delete_pending(&id.0).await;
    cx.authz.remove_deleted_roles().await;
    tracing::info!(account.slug = %user.slug, "account `{}` deleted", user.slug);
    Ok(Json(Empty {}))
}

/// Deletes what it owned, and removes its slug from grants of others, so that a later holder of the slug inherits
/// nothing.
fn cascade_changes(rules: &AccessRules, user: &UserRow) -> Vec<Change> {
    let mut changes = rules.owned_by(&user.id);
    let roles = rules.roles_of(&user.id).map(AsRef::as_ref).collect();
    changes.extend(rules.without_names(&roles, Some(&user.slug)));
    let under_slug = format!("{}:", user.slug);
    changes.extend(rules.grants_with_prefix(&under_slug).map(|id| Change::DeleteGrant(id.to_string())));
    for row in rules.delegations.values() {
        if row.slug == user.slug {
            changes.push(Change::DeleteDelegation(row.slug.clone()));
        } else if row.services.contains(&user.slug) {
            let mut row = DelegationRow::clone(row);
            row.services.retain(|slug| *slug != user.slug);
            changes.push(Change::SaveDelegation(row));
        }
    }
    // A grant may be deleted for two reasons.
    let mut gone = std::collections::HashSet::new();
    changes.retain(|change| match change {
        Change::DeleteGrant(id) => gone.insert(id.clone()),
        _ => true,
    });
    changes.retain(|change| !matches!(change, Change::SaveGrant(row) if gone.contains(&row.id)));
    changes
}

pub async fn release_slug(cx: Cx<Directory>, Path(slug): Path<DeletedSlug>) -> Result<Json<Empty>> {
    Slug::parse(&slug.0).map_err(|error| Error::invalid(error.0))?;
    cx.platform.commit(&cx.request.audit, cx.tombstones.delete(&slug.0, None).into()).await.map_err(
        |error| match error {
            StoreError::NotFound(_) => {
                Error::new(&errors::NO_SUCH_DELETED_SLUG, format!("no deleted account had the slug `{}`", slug.0))
            }
            other => other.into(),
        },
    )?;
    Ok(Json(Empty {}))
}

impl Directory {
    /// Marks an account as being deleted and revokes its sessions, without reading any data that the account can change. From
    /// then on, sign-ins to the account and role assignments to it are refused.
    async fn begin_deletion(&self, call: &CallAudit, caller: &Caller, user: &UserRow) -> Result<()> {
        let tombstone = TombstoneRow { user_id: user.id.clone(), founder_id: String::new(), deleted_at: self.now() };
        let mut batch: Batch = not_admin_guard(caller, &user.id).into_iter().collect();
        batch.push(Write::Require(Guard::Exists { collection: USERS.name, id: user.id.clone() }));
        batch.push(self.tombstones.upsert(id_tombstone(&user.id), &tombstone)?);
        let filters = vec![Filter::equals("userId", &*user.id)];
        batch.push(Write::DeleteWhere { collection: SESSIONS.name, filters });
        let outcome = self.platform.audit.commit_part(call, batch).await;
        self.authn.sessions.cache.evict_account(&user.id, None);
        outcome?;
        Ok(())
    }

    /// Takes an account that is being deleted out of its organizations, one by one: together they take so long that another
    /// member could always change one meanwhile.
    async fn leave_organizations(&self, call: &CallAudit, caller: &Caller, user_id: &str) -> Result<()> {
        for link in self.authz.role_links.find(&Query::all().equals("userId", user_id)).await? {
            if organization_of(&link.value.role_id).is_none() {
                continue;
            }
            retry(|| async {
                let Some(link) = self.authz.role_links.get(&link.id).await? else { return Ok(()) };
                let mut batch: Batch = not_admin_guard(caller, user_id).into_iter().collect();
                batch.push(self.authz.role_links.delete(&link.id, Some(link.version)));
                let mut new_admins = Vec::new();
                let batch = self.without_member(&link.value, batch, &mut new_admins).await?;
                let outcome = self.platform.audit.commit_part(call, batch).await;
                new_admins.iter().for_each(|id| self.authz.cache.rights_changed(id));
                outcome?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Takes the mark away from an account that could not be deleted.
    async fn give_up_deletion(&self, user_id: &str) {
        let there = Guard::Exists { collection: USERS.name, id: user_id.to_owned() };
        let filters = vec![Filter::equals("id", id_tombstone(user_id))];
        let batch = Batch::new().require(there).with(Write::DeleteWhere { collection: TOMBSTONES.name, filters });
        match self.platform.store.commit(batch).await {
            // A conflict: the account does not exist any more.
            Ok(_) | Err(StoreError::Conflict(_)) => {}
            Err(error) => tracing::warn!(
                "the account `{user_id}` could not be deleted and cannot be used until it is deleted again: {error}"
            ),
        }
    }

    /// Removes a deleted account from all caches.
    fn evict_account(&self, user_id: &str) {
        self.authn.sessions.cache.evict_account(user_id, None);
        self.authz.cache.rights_changed(user_id);
        for other in &self.deletion_hooks {
            other.deleted(user_id);
        }
    }

    /// Deletes pending roles and invitations of a deleted account. If this fails, they are void anyway, since their
    /// creator no longer exists.
    async fn delete_pending(&self, user_id: &str) {
        for (collection, field) in PENDING_COLLECTIONS {
            let filters = vec![Filter::equals(*field, user_id)];
            let cleared = async {
                self.authz.delete_in_batches(&CallAudit::NONE, collection, &filters).await?;
                Ok::<_, Error>(self.platform.store.commit(Write::DeleteWhere { collection, filters }.into()).await?)
            };
            if let Err(error) = cleared.await {
                tracing::warn!(
                    "cannot delete the pending roles and invitations of the deleted account `{user_id}`: {error:?}"
                );
            }
        }
    }

    fn pending_deletions(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.pending_deletions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reconciles accounts whose deletion has an unknown outcome.
    pub async fn reconcile(&self) -> Result<()> {
        // Serialized, so that the last read sees the last change.
        let _order = self.reconcile_lock.lock().await;
        let unsettled = self.pending_deletions().clone();
        for id in unsettled {
            if self.accounts.users.get(&id).await?.is_none() {
                self.evict_account(&id);
            }
            self.pending_deletions().remove(&id);
        }
        Ok(())
    }

    fn new_user(
        &self,
        input: UserInput,
        mut contacts: Vec<openorch_api::user::ContactInput>,
        home_app: &str,
    ) -> Result<UserRow> {
        contacts.extend(input.contacts);
        if contacts.len() > 1 {
            return Err(Error::invalid("more than one contact: a new account may have at most one"));
        }
        let profile = ProfileChange(SaveSelfRequest {
            name: None,
            labels: Some(input.labels),
            thumbnail_file_id: Some(input.thumbnail_file_id),
        });
        let now = self.now();
        let mut user = UserRow {
            id: if input.id.is_empty() { self.platform.ids.next("usr") } else { input.id },
            slug: input.slug,
            name: input.name,
            search_prefixes: Vec::new(),
            contacts: contacts.pop().map(|one| self.parse_contact(&one)).transpose()?.flatten().into_iter().collect(),
            labels: Default::default(),
            thumbnail_file_id: String::new(),
            home_app: home_app.to_owned(),
            created_at: now,
            updated_at: now,
        };
        profile.apply(&mut user);
        user.search_prefixes = search_prefixes(&user.slug, &user.name);
        Ok(user)
    }
}

/// A guard for callers other than admins: the account is not an admin at commit time.
fn not_admin_guard(caller: &Caller, user_id: &str) -> Option<Write> {
    let id = RoleLinkRow::id_of(DEFAULT_APP, user_id, openorch_api::role::ADMIN);
    (!caller.is_admin()).then_some(Write::Require(Guard::Absent { collection: ROLE_LINKS.name, id }))
}

/// Maps a conflict of concurrent requests to the error of sequential ones.
pub fn already_exists(error: StoreError) -> Error {
    match error {
        StoreError::AlreadyExists(_) => {
            Error::new(&errors::ACCOUNT_EXISTS, "slug already exists, or the id or contact belongs to another account")
        }
        other => other.into(),
    }
}

fn no_such_account(id: &UserId) -> impl Fn() -> Error + use<'_> {
    || Error::new(&errors::NO_SUCH_ACCOUNT, format!("user not found: there is no account `{}`", id.0))
}
