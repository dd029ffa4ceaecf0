//! Organizations: groups of accounts. Membership is defined only by the two roles `user-svc:org:{id}:admin` and
//! `…:user` with literal braces, so that it cannot diverge from the rights of members.

use std::collections::HashSet;

use openorch_api::{
    Body, Json, Path, Query as Asked,
    query::PageRequest,
    user::{
        AddUserToOrganizationRequest, CreateOrganizationRequest, CreateOrganizationResponse, DeletedOrganizationId,
        Empty, ListMembersResponse, ListOrganizationsRequest, ListOrganizationsResponse, Member, Organization,
        OrganizationId, SaveMembershipRequest, SaveOrganizationRequest, SaveOrganizationResponse, User, UserId, errors,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result, audit::CallAudit, service::retry};
use openorch_store::{Batch, Filter, Guard, Query, StoreError, Stored, Write};

use crate::{
    query::{Paging, cursor_by_id},
    user::{
        authz::{
            accounts::account::Account,
            guards::role_guard,
            roles::{
                assignments::RoleAssignments,
                organization::{admin_role, is_admin_role, organization_of, user_role},
            },
            rows::{ROLE_LINKS, RoleLinkRow},
        },
        directory::{
            rows::{ORGANIZATIONS, OrganizationRow},
            state::Directory,
        },
        shared::{
            quote::quote,
            rows::{TOMBSTONES, TombstoneRow},
        },
    },
};

/// Maximum number of organizations founded by an account other than an admin, including deleted ones.
const MAX_FOUNDED: u64 = 500;
const DEFAULT_PAGE_SIZE: i64 = 20;

pub async fn create(
    cx: Cx<Directory>,
    Body(request): Body<CreateOrganizationRequest>,
) -> Result<Json<CreateOrganizationResponse>> {
    let row = cx.new_organization(cx.caller()?, request)?;
    let answer = CreateOrganizationResponse { organization: (&row).into() };
    cx.request.audit.set_answer(&answer)?;
    cx.create_organization(&cx.request.audit, cx.caller()?, &row).await?;
    Ok(Json(answer))
}

pub async fn save(
    cx: Cx<Directory>,
    Body(request): Body<SaveOrganizationRequest>,
) -> Result<Json<SaveOrganizationResponse>> {
    let caller = cx.caller()?;
    let wanted = CreateOrganizationRequest { id: request.id, slug: request.slug, name: request.name };
    let fresh = cx.new_organization(caller, wanted.clone())?;
    let existing = match wanted.id.as_str() {
        "" => {
            let by_slug = Query::all().equals("app", &*caller.app).equals("slug", wanted.slug.as_str());
            cx.organizations.first(&by_slug).await?.map(|row| row.value)
        }
        id => cx.organizations.get(id).await?.map(|row| row.value),
    };
    let organization = match existing {
        None => {
            cx.create_organization(&cx.request.audit, caller, &fresh).await?;
            (&fresh).into()
        }
        Some(known) => cx.change_organization(&cx.request.audit, caller, &known.id, fresh).await?,
    };
    let account = cx.authz.require_account(&caller.user_id).await?;
    let token = cx.authn.refresh_token(&cx.request.audit, &account, &caller.session_id).await?;
    Ok(Json(SaveOrganizationResponse { organization, token }))
}

pub async fn list(
    cx: Cx<Directory>,
    Body(request): Body<ListOrganizationsRequest>,
) -> Result<Json<ListOrganizationsResponse>> {
    let limit = request.limit.filter(|limit| *limit != 0).unwrap_or(DEFAULT_PAGE_SIZE);
    let mut query = Query::all().equals("app", &*cx.caller()?.app).descending("createdAt").limit(limit.unsigned_abs());
    if !request.ids.is_empty() {
        query = query.is_in("id", request.ids);
    }
    if let Some(before) = request.after_time.filter(|time| !time.is_zero()) {
        query = query.filter(Filter::range("createdAt", None, Some(before.to_string().into())));
    }
    query.after = crate::query::cursor_by_field(request.after)?;
    let page = cx.organizations.page(&query).await?;
    let next = page.next.as_ref().map(crate::query::to_wire).unwrap_or_default();
    let organizations = page.items.iter().map(|row| (&row.value).into()).collect();
    Ok(Json(ListOrganizationsResponse { organizations, next }))
}

/// Requires that the organization exists and the caller is its admin.
pub async fn require_admin_of(cx: &Cx<Directory>, id: &OrganizationId) -> Result<()> {
    let caller = cx.caller()?;
    cx.organization(caller, id).await?;
    require_organization_admin(&cx.request.audit, caller, &id.0)
}

/// The same, unless the caller acts on its own account.
pub async fn require_admin_or_self(cx: &Cx<Directory>, id: &OrganizationId, user_id: &UserId) -> Result<()> {
    match *user_id.0 == *cx.caller()?.user_id {
        true => Ok(()),
        false => require_admin_of(cx, id).await,
    }
}

/// Requires that the organization exists and the caller is a member.
pub async fn require_member_of(cx: &Cx<Directory>, id: &OrganizationId) -> Result<()> {
    let caller = cx.caller()?;
    cx.organization(caller, id).await?;
    let is_member_role = |role: &str| *role == *user_role(&id.0) || *role == *admin_role(&id.0);
    if caller.is_admin() || caller.roles.iter().any(|role| is_member_role(role)) {
        return Ok(());
    }
    Err(Error::new(&errors::NOT_IN_ORGANIZATION, format!("you are not a member of the organization `{}`", id.0)))
}

pub async fn delete(cx: Cx<Directory>, Path(id): Path<OrganizationId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    retry(|| async {
        let organization = cx.organization(caller, &id).await?;
        let mut batch = cx.delete_with_tombstone(&organization, &caller.user_id, Batch::new())?;
        let roles = [admin_role(&id.0), user_role(&id.0)];
        for role in &roles {
            batch.push(Write::DeleteWhere {
                collection: ROLE_LINKS.name,
                filters: vec![Filter::equals("roleId", role.as_str())],
            });
        }
        // Also for accounts that joined concurrently.
        cx.commits
            .commit(&cx.request.audit, batch, || cx.authz.cache.roles_deleted(roles.iter().map(String::as_str)))
            .await?;
        Ok(Json(Empty {}))
    })
    .await
}

/// Releases the id of a deleted organization for reuse.
pub async fn release_id(cx: Cx<Directory>, Path(id): Path<DeletedOrganizationId>) -> Result<Json<Empty>> {
    cx.platform.commit(&cx.request.audit, cx.tombstones.delete(tombstone_id(&id.0), None).into()).await.map_err(
        |error| match error {
            StoreError::NotFound(_) => Error::new(
                &errors::NO_SUCH_DELETED_ORGANIZATION,
                format!("no deleted organization had the id `{}`", id.0),
            ),
            other => other.into(),
        },
    )?;
    Ok(Json(Empty {}))
}

pub async fn members(
    cx: Cx<Directory>,
    (Path(id), Asked(request)): (Path<OrganizationId>, Asked<PageRequest>),
) -> Result<Json<ListMembersResponse>> {
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let mut asked = member_links(&id.0).limit(paging.limit as u64 + u64::from(!paging.is_page));
    asked.after = cursor_by_id(paging.after.clone())?;
    let page = cx.authz.role_links.page(&asked).await?;
    paging.check_length(page.items.len(), "members", "name a `limit`")?;
    let next = page.next.as_ref().map(crate::query::to_wire).unwrap_or_default();
    let ids: Vec<String> = page.items.iter().map(|link| link.value.user_id.clone()).collect();
    let admins: HashSet<&str> = page
        .items
        .iter()
        .filter(|link| is_admin_role(&link.value.role_id))
        .map(|link| link.value.user_id.as_str())
        .collect();
    let mut members = Vec::new();
    for ids in ids.chunks(1000) {
        for user in cx.accounts.users.find(&Query::all().is_in("id", ids.to_vec())).await? {
            let role = if admins.contains(user.id.as_str()) { "admin" } else { "user" };
            // Members may have been added without consent, so their contacts are not shown.
            let user = User {
                id: user.value.id,
                slug: user.value.slug,
                name: user.value.name,
                created_at: user.value.created_at,
                updated_at: user.value.updated_at,
                ..User::default()
            };
            members.push(Member { user, role: role.to_owned() });
        }
    }
    Ok(Json(ListMembersResponse { members, next }))
}

pub async fn add_user(
    cx: Cx<Directory>,
    (Path(id), Body(request)): (Path<OrganizationId>, Body<AddUserToOrganizationRequest>),
) -> Result<Json<Empty>> {
    cx.set_membership(&cx, &id, &request.user_id, None).await
}

pub async fn save_membership(
    cx: Cx<Directory>,
    (Path(id), Path(user_id), Body(request)): (Path<OrganizationId>, Path<UserId>, Body<SaveMembershipRequest>),
) -> Result<Json<Empty>> {
    let is_admin = match request.role.as_deref() {
        Some("user") => Some(false),
        Some("admin") => Some(true),
        _ => None,
    };
    cx.set_membership(&cx, &id, &user_id.0, is_admin).await
}

pub async fn remove_user(
    cx: Cx<Directory>,
    (Path(id), Path(user_id)): (Path<OrganizationId>, Path<UserId>),
) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    retry(|| async {
        let organization = cx.organization(caller, &id).await?;
        let is_own = *user_id.0 == *caller.user_id;
        let links = cx.links_of_member(&id.0, &user_id.0).await?;
        if links.is_empty() {
            return Err(Error::new(
                &errors::NO_SUCH_MEMBER,
                format!("the account `{}` is not a member of the organization", user_id.0),
            ));
        }
        // An account that was added without consent must be able to leave, even if it is the last admin.
        let may_always_leave = is_own && organization.value.founder_id != user_id.0;
        let (mut batch, mut new_admins) = (Batch::new(), Vec::new());
        for link in links {
            batch.push(cx.authz.role_links.delete(&link.id, Some(link.version)));
            batch = match may_always_leave {
                true => cx.without_member(&link.value, batch, &mut new_admins).await?,
                false => cx.authz.ensure_last_admin(&link.value, batch).await?,
            };
        }
        let forget = || new_admins.iter().chain([&user_id.0]).for_each(|id| cx.authz.cache.rights_changed(id));
        cx.commits.commit(&cx.request.audit, batch, forget).await?;
        Ok(Json(Empty {}))
    })
    .await
}

impl Directory {
    /// The account's organizations in an app, oldest first, and the id of the active one: the oldest that it founded,
    /// since it may have been added to the others without consent.
    pub async fn organizations_of(&self, account: &Account, app: &str) -> Result<(Vec<Organization>, String)> {
        let ids: Vec<&str> = account.roles_in(app).iter().filter_map(|role| organization_of(role)).collect();
        if ids.is_empty() {
            return Ok((Vec::new(), String::new()));
        }
        let rows = self.organizations.find(&Query::all().is_in("id", ids).ascending("createdAt")).await?;
        let founded = rows.iter().find(|row| row.value.founder_id == *account.id).or(rows.first());
        let active = founded.map(|row| row.id.clone()).unwrap_or_default();
        Ok((rows.iter().map(|row| (&row.value).into()).collect(), active))
    }

    /// Completes a batch that removes this role from an account that leaves for good: an organization without members
    /// is deleted, and one without an admin gets its longest-standing member as admin, who is added to `new_admins`.
    pub async fn without_member(
        &self,
        link: &RoleLinkRow,
        batch: Batch,
        new_admins: &mut Vec<String>,
    ) -> Result<Batch> {
        if let Some(batch) = self.without_organization(link, &batch).await? {
            return Ok(batch);
        }
        let Some(id) = organization_of(&link.role_id).filter(|_| is_admin_role(&link.role_id)) else {
            return self.authz.ensure_last_admin(link, batch).await;
        };
        let admins = Query::all().equals("roleId", admin_role(id)).limit(2);
        let is_another = |other: &Stored<RoleLinkRow>| other.value.user_id != link.user_id;
        if self.authz.role_links.find(&admins).await?.iter().any(is_another) {
            return self.authz.ensure_last_admin(link, batch).await;
        }
        let members = Query::all().equals("roleId", user_role(id)).ascending("createdAt").limit(2);
        let Some(heir) = self.authz.role_links.find(&members).await?.into_iter().find(is_another) else {
            return self.authz.ensure_last_admin(link, batch).await;
        };
        let admin_link = RoleLinkRow { role_id: admin_role(id), ..heir.value };
        let batch = batch
            .with(self.authz.role_links.delete(&heir.id, Some(heir.version)))
            .with(self.authz.role_links.upsert(admin_link.id(), &admin_link)?);
        new_admins.push(admin_link.user_id);
        Ok(batch.require(Guard::at_least(ROLE_LINKS.name, vec![Filter::equals("roleId", admin_role(id))], 1)))
    }

    /// Completes a batch that removes this role with the deletion of the organization, if it has no other members.
    async fn without_organization(&self, link: &RoleLinkRow, batch: &Batch) -> Result<Option<Batch>> {
        let Some(id) = organization_of(&link.role_id) else { return Ok(None) };
        let Some(organization) = self.organizations.get(id).await? else { return Ok(None) };
        if self.authz.role_links.find(&member_links(id).limit(2)).await?.len() > 1 {
            return Ok(None);
        }
        let members = vec![Filter::is_in("roleId", [admin_role(id), user_role(id)])];
        let batch = self.delete_with_tombstone(&organization, &link.user_id, batch.clone())?;
        Ok(Some(batch.require(Guard::at_most(ROLE_LINKS.name, members, 0))))
    }

    /// A batch that deletes the organizations of an app, without the roles of their members.
    pub async fn without_organizations_of(&self, by: &str, app: &str) -> Result<Batch> {
        let mut batch = Batch::new();
        for organization in self.organizations.find(&Query::all().equals("app", app)).await? {
            batch = self.delete_with_tombstone(&organization, by, batch)?;
        }
        Ok(batch)
    }

    /// Deletes an organization, with a tombstone: other services may still have its data, so its id must not be reused.
    fn delete_with_tombstone(&self, organization: &Stored<OrganizationRow>, by: &str, batch: Batch) -> Result<Batch> {
        let founder_id = organization.value.founder_id.clone();
        let tombstone = TombstoneRow { user_id: by.to_owned(), founder_id, deleted_at: self.now() };
        Ok(batch
            .with(self.organizations.delete(&organization.id, Some(organization.version)))
            .with(self.tombstones.upsert(tombstone_id(&organization.id), &tombstone)?))
    }

    fn new_organization(&self, caller: &Caller, request: CreateOrganizationRequest) -> Result<OrganizationRow> {
        let (app, now) = (&*caller.app, self.now());
        // Ids without a prefix are first come, first served, as published clients use them.
        let (owner, _) = request.id.split_once(':').unwrap_or((&caller.slug, &request.id));
        if *owner != *caller.slug && !caller.is_admin() {
            return Err(Error::new(
                &errors::FOREIGN_PREFIX,
                format!(
                    "organization ids that start with `{}:` are reserved for the account with that slug; yours start with `{}:`",
                    quote(owner),
                    caller.slug
                ),
            ));
        }
        Ok(OrganizationRow {
            id: if request.id.is_empty() { self.platform.ids.next("org") } else { request.id },
            app: app.to_owned(),
            name: request.name,
            slug: Some(request.slug).filter(|slug| !slug.is_empty()),
            founder_id: String::new(),
            created_at: now,
            updated_at: now,
        })
    }

    /// Creates an organization with the caller as admin.
    async fn create_organization(&self, call: &CallAudit, caller: &Caller, row: &OrganizationRow) -> Result<()> {
        let taken = || {
            Error::new(
                &errors::ORGANIZATION_TAKEN,
                "organization already exists: its id or slug is taken; choose another",
            )
        };
        let row = &OrganizationRow { founder_id: caller.user_id.to_string(), ..row.clone() };
        call.set_created(&row.id);
        let link =
            RoleLinkRow::new(&row.app, &caller.user_id, &admin_role(&row.id), row.created_at).assigned_by(caller);
        retry(|| async {
            let buried = tombstone_id(&row.id);
            if self.tombstones.get(&buried).await?.is_some() {
                return Err(taken());
            }
            let mut batch = Batch::new()
                .require(Guard::Absent { collection: TOMBSTONES.name, id: buried })
                .with(self.organizations.create(&row.id, row)?);
            batch.0.extend(self.authz.require_app(&row.app)?);
            batch.0.extend(self.check_founded_quota(caller).await?);
            let mut giving = RoleAssignments::with(batch);
            self.authz.count_assignment(&mut giving, caller).await?;
            self.authz.assign(&mut giving, link.clone()).await?;
            let batch = giving.batch(&self.authz.limits);
            let outcome = self.commits.commit(call, batch, || self.authz.cache.rights_changed(&caller.user_id)).await;
            outcome.map_err(|error| match error {
                StoreError::AlreadyExists(_) => taken(),
                other => other.into(),
            })?;
            Ok(())
        })
        .await
    }

    /// Checks the quota of founded organizations; returns guards that it holds at commit time.
    async fn check_founded_quota(&self, caller: &Caller) -> Result<Vec<Write>> {
        if caller.is_admin() {
            return Ok(Vec::new());
        }
        let by_caller = || vec![Filter::equals("founderId", &*caller.user_id)];
        let live = self.organizations.count(&by_caller()).await?;
        if live + self.tombstones.count(&by_caller()).await? >= MAX_FOUNDED {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "an account may found {MAX_FOUNDED} organizations, including deleted ones, whose ids stay reserved: have an \
                     admin release some with DELETE /user-svc/organization-id/{{organizationId}}"
                ),
            ));
        }
        // The count includes the new one at commit time.
        let quota_guard = |collection| Write::Require(Guard::at_most(collection, by_caller(), MAX_FOUNDED));
        Ok(vec![quota_guard(ORGANIZATIONS.name), quota_guard(TOMBSTONES.name)])
    }

    async fn change_organization(
        &self,
        call: &CallAudit,
        caller: &Caller,
        id: &str,
        wanted: OrganizationRow,
    ) -> Result<Organization> {
        require_organization_admin(call, caller, id)?;
        retry(|| async {
            let id = OrganizationId(id.to_owned());
            let Stored { version, value: mut row, .. } = self.organization(caller, &id).await?;
            row.name.clone_from(&wanted.name);
            row.slug.clone_from(&wanted.slug);
            row.updated_at = wanted.updated_at;
            let batch = Batch::new().with(self.organizations.replace(&row.id, &row, Some(version))?);
            self.platform.commit(call, batch).await.map_err(|error| match error {
                StoreError::AlreadyExists(_) => Error::new(
                    &errors::ORGANIZATION_TAKEN,
                    "organization already exists: its slug is taken; choose another",
                ),
                other => other.into(),
            })?;
            Ok((&row).into())
        })
        .await
    }

    /// An organization of the caller's app.
    async fn organization(&self, caller: &Caller, id: &OrganizationId) -> Result<Stored<OrganizationRow>> {
        let unknown = || {
            Error::new(
                &errors::NO_SUCH_ORGANIZATION,
                format!("organization not found: there is none with the id `{}`", id.0),
            )
        };
        let found = self.organizations.get(&id.0).await?;
        found.filter(|row| caller.is_admin() || *row.value.app == *caller.app).ok_or_else(unknown)
    }

    async fn links_of_member(&self, id: &str, user_id: &str) -> Result<Vec<Stored<RoleLinkRow>>> {
        let of_both = Query::all().equals("userId", user_id).is_in("roleId", [admin_role(id), user_role(id)]);
        Ok(self.authz.role_links.find(&of_both).await?)
    }

    /// Adds an account to an organization or changes its role; `None` keeps the role of a member.
    async fn set_membership(
        &self,
        cx: &Cx<Directory>,
        id: &OrganizationId,
        user_id: &str,
        as_admin: Option<bool>,
    ) -> Result<Json<Empty>> {
        let caller = cx.caller()?;
        retry(|| async {
            let app = self.organization(caller, id).await?.value.app;
            let before = self.links_of_member(&id.0, user_id).await?;
            if as_admin.is_none() && !before.is_empty() {
                return Ok(Json(Empty {}));
            }
            let role = if as_admin.unwrap_or_default() { admin_role(&id.0) } else { user_role(&id.0) };
            let mut batch = Batch::new().require(Guard::Exists { collection: ORGANIZATIONS.name, id: id.0.clone() });
            for link in before.iter().filter(|link| link.value.role_id != role) {
                batch.push(self.authz.role_links.delete(&link.id, Some(link.version)));
                batch = self.authz.ensure_last_admin(&link.value, batch).await?;
            }
            let mut giving = RoleAssignments::with(batch);
            let mut link = RoleLinkRow::new(&app, user_id, &role, self.now()).assigned_by(caller);
            // A caller that changes its own role was still added by another account, which may be what makes it a
            // member of the app.
            if let (Some(before), true) = (before.first(), *user_id == *caller.user_id) {
                link = RoleLinkRow {
                    created_by: before.value.created_by.clone(),
                    by_admin: before.value.by_admin,
                    ..link
                };
            }
            match before.is_empty() {
                true => {
                    self.authz.count_assignment(&mut giving, caller).await?;
                    self.authz.assign(&mut giving, link).await?;
                }
                false if before.iter().any(|link| link.value.role_id == role) => {}
                false => self.authz.assign_replacement(&mut giving, link)?,
            }
            let batch = giving.batch(&self.authz.limits);
            self.commits.commit(&cx.request.audit, batch, || self.authz.cache.rights_changed(user_id)).await?;
            Ok(Json(Empty {}))
        })
        .await
    }
}

/// The role links of an organization's members.
fn member_links(id: &str) -> Query {
    Query::all().is_in("roleId", [admin_role(id), user_role(id)])
}

fn tombstone_id(id: &str) -> String {
    format!("org:{id}")
}

fn require_organization_admin(call: &CallAudit, caller: &Caller, id: &str) -> Result<()> {
    if caller.is_admin() {
        return Ok(());
    }
    let role = admin_role(id);
    if caller.roles.iter().any(|has| **has == *role) {
        // The commit requires that the caller is still an admin of the organization.
        call.require_permission_guards([role_guard(&caller.app, &caller.user_id, &role)]);
        return Ok(());
    }
    Err(Error::new(&errors::NOT_ORGANIZATION_ADMIN, format!("not an admin of the organization `{id}`")))
}
