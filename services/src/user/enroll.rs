//! Enrolls: which accounts have which roles. What an account has is read again on its very next request.

use std::{collections::BTreeSet, sync::Arc};

use openorch_api::{
    Body, Json, Path, Time,
    user::{
        Empty, Enroll, EnrollId, EnrollInput, ListEnrollsRequest, ListEnrollsResponse, SaveEnrollsRequest,
        SaveEnrollsResponse,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result, service::retry};
use openorch_store::{Batch, Filter, Guard, Query, Stored, Write};

use super::{
    Users,
    contact::normal,
    rows::{ALL_APPS, ContactEnrollRow, ROLE_LINKS, ROLES, RoleLinkRow, USERS, app_of},
    rules::{check_count, shown},
};

const MAX_SAVED: usize = 1000;
/// What every request looks at stays short.
const MAX_ROLES: u64 = 1000;
/// So many of them an account that is no admin may give to one other: it can crowd nobody out of what others give.
const MAX_GIVEN: usize = 100;
const MAX_WAITING: u64 = 100;
/// What the ids of enrolls for contacts begin with; no app is called so.
const CONTACT_PREFIX: &str = "contact:";

pub async fn save(cx: Cx<Users>, Body(request): Body<SaveEnrollsRequest>) -> Result<Json<SaveEnrollsResponse>> {
    let caller = cx.caller()?;
    check_count("enrolls", request.enrolls.len(), MAX_SAVED)?;
    let mut apps = Vec::new();
    for input in &request.enrolls {
        apps.push(check(&cx, caller, input)?);
    }
    let enrolls = retry(|| async {
        let mut batch = Batch::new();
        let mut enrolls: Vec<Enroll> = Vec::new();
        let mut given = BTreeSet::new();
        for (input, app) in request.enrolls.iter().zip(&apps) {
            let owner = match input.user_id.as_str() {
                "" => cx
                    .by_contact(&input.contact_id)
                    .await?
                    .filter(|row| row.value.verified)
                    .map(|row| row.value.user_id),
                id => Some(id.to_owned()),
            };
            let Some(user_id) = owner else {
                let enroll = cx.enroll_contact(&mut batch, caller, app, input, &enrolls).await?;
                enrolls.push(enroll);
                continue;
            };
            let link = RoleLinkRow::new(app, &user_id, &input.role, cx.now());
            let link = match input.user_id.as_str() {
                "" => link.by_contact_of(&for_contact(caller, app, input, cx.now())),
                _ => link.by(caller),
            };
            given.insert(user_id);
            let is_in_batch = |write: &Write| matches!(write, Write::Create { id, .. } if *id == link.id());
            let is_given_here = batch.0.iter().any(is_in_batch);
            let known = cx.role_links.get(&link.id()).await?.map(|known| known.value);
            let is_there = is_given_here || known.is_some();
            // What somebody has already by another way does not show where a contact was named.
            let same_way = known.filter(|known| known.contact_enroll_id == link.contact_enroll_id);
            enrolls.push(shown_to(caller, same_way.unwrap_or_else(|| link.clone())));
            if is_there {
                continue;
            }
            // It may not go meanwhile, or be had again when it is made anew.
            batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: input.role.clone() }));
            cx.give(&mut batch, &link).await?;
        }
        let outcome = cx.store.commit(batch).await;
        // Also where nobody knows what came of it: what is stored is read again.
        given.iter().for_each(|user_id| cx.memory.rights_changed(user_id));
        outcome?;
        Ok(enrolls)
    })
    .await?;
    let mut told = BTreeSet::new();
    let enrolls = enrolls.into_iter().filter(|enroll| told.insert(enroll.id.clone())).collect();
    Ok(Json(SaveEnrollsResponse { enrolls }))
}

pub async fn list(cx: Cx<Users>, Body(request): Body<ListEnrollsRequest>) -> Result<Json<ListEnrollsResponse>> {
    let caller = cx.caller()?;
    let role = request.role.filter(|role| !role.is_empty());
    let user_id = request.user_id.filter(|id| !id.is_empty());
    let is_own = user_id.as_deref() == Some(&*caller.user_id);
    let sees_all = is_own || caller.is_admin() || role.as_deref().is_some_and(|role| is_under_own_slug(caller, role));
    match &role {
        _ if sees_all => {}
        Some(role) if may_give(caller, role, &caller.app) => {}
        Some(role) => return Err(refusal(role)),
        None => return Err(Error::forbidden("name your own `userId`, or a `role` that you may give")),
    }
    let contact = request.contact_id.filter(|id| !id.is_empty()).map(|contact| normal(&contact));
    if role.is_none() && user_id.is_none() && contact.is_none() {
        return Err(Error::invalid("name a `role`, a `userId` or a `contactId`"));
    }
    let asked = |field: &str, value: &Option<String>| {
        let named = [(field, value), ("roleId", &role)];
        let filters = named.into_iter().filter_map(|(field, value)| Some(Filter::equals(field, value.as_deref()?)));
        Query { filters: filters.collect(), ..Query::all() }.limit(cx.shared.list_most as u64 + 1)
    };
    let mut enrolls = Vec::new();
    let by = if contact.is_some() { ("byContact", &contact) } else { ("userId", &user_id) };
    // Who asks for an account's is not told that a contact is its.
    let is_told = |link: &RoleLinkRow| is_own || caller.is_admin() || user_id.is_none() || link.by_contact.is_none();
    if contact.is_none() || user_id.is_none() {
        let rows = cx.role_links.find(&asked(by.0, by.1)).await?.into_iter().map(|row| row.value);
        enrolls.extend(rows.filter(is_told).map(|link| if is_own { to_wire(link) } else { shown_to(caller, link) }));
    }
    if user_id.is_none() {
        let rows = cx.contact_enrolls.find(&asked("contact", &contact)).await?;
        enrolls.extend(rows.into_iter().map(|row| waiting(row.value)));
    }
    cx.shared.refuse_long_list(enrolls.len(), "enrolls", "name a role and an account")?;
    enrolls.retain(|enroll| sees_all || *enroll.app_id == *caller.app);
    Ok(Json(ListEnrollsResponse { enrolls }))
}

pub async fn delete(cx: Cx<Users>, Path(id): Path<EnrollId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    retry(|| async {
        // Whether there is one is told to those alone who could have given it.
        let unknown = || Error::not_found(format!("there is no enroll `{}`", id.0));
        let is_by_contact = id.0.starts_with(CONTACT_PREFIX);
        if is_by_contact && let Some(waits) = cx.contact_enrolls.get(&id.0).await? {
            return delete_waiting(&cx, waits).await;
        }
        let found = match is_by_contact {
            true => cx.role_links.first(&Query::all().equals("contactEnrollId", id.0.as_str())).await?,
            false => cx.role_links.get(&id.0).await?,
        };
        let Stored { value: link, version, id, .. } = found.ok_or_else(unknown)?;
        // What was given unasked is put away by oneself.
        if !may_give(caller, &link.role_id, &link.app) && *link.user_id != *caller.user_id {
            return Err(refusal(&link.role_id));
        }
        let batch = cx.keep_an_admin(&link, Batch::new().with(cx.role_links.delete(&id, Some(version)))).await?;
        let outcome = cx.store.commit(batch).await;
        // Also where nobody knows what came of it: what is stored is read again.
        cx.memory.rights_changed(&link.user_id);
        outcome?;
        Ok(Json(Empty {}))
    })
    .await
}

async fn delete_waiting(cx: &Cx<Users>, found: Stored<ContactEnrollRow>) -> Result<Json<Empty>> {
    if !may_give(cx.caller()?, &found.value.role_id, &found.value.app) {
        return Err(refusal(&found.value.role_id));
    }
    cx.store.commit(cx.contact_enrolls.delete(&found.id, Some(found.version)).into()).await?;
    Ok(Json(Empty {}))
}

impl Users {
    /// Adds to a batch, in which these enrolls are already, that a role waits for whoever shows that a contact is its own.
    async fn enroll_contact(
        &self,
        batch: &mut Batch,
        caller: &Caller,
        app: &str,
        input: &EnrollInput,
        enrolls: &[Enroll],
    ) -> Result<Enroll> {
        let row = for_contact(caller, app, input, self.now());
        let by_caller = Filter::equals("createdBy", row.created_by.as_str());
        let waits = vec![Filter::equals("contact", row.contact.as_str()), by_caller];
        let is_for_it = |enroll: &&Enroll| enroll.user_id.is_empty() && enroll.contact_id == row.contact;
        let before = enrolls.iter().filter(is_for_it).count() as u64;
        if self.contact_enrolls.count(&waits).await? + before >= MAX_WAITING {
            return Err(Error::invalid(format!("at most {MAX_WAITING} roles that you gave wait for one contact")));
        }
        batch.push(self.contact_enrolls.upsert(row.id(), &row)?);
        Ok(waiting(row))
    }

    /// Adds to the batch with which an account shows that a contact is its own the roles that waited for that.
    pub(super) async fn give_waiting(&self, mut batch: Batch, user_id: &str, contact: &str) -> Result<Batch> {
        for row in self.contact_enrolls.find(&Query::all().equals("contact", contact)).await? {
            batch.push(self.contact_enrolls.delete(&row.id, Some(row.version)));
            if !self.memory.rules().roles.contains_key(row.value.role_id.as_str()) {
                continue;
            }
            let link =
                RoleLinkRow::new(&row.value.app, user_id, &row.value.role_id, self.now()).by_contact_of(&row.value);
            // Who has the role already keeps it as it was given: another giver's word may count for less.
            if self.role_links.get(&link.id()).await?.is_some() {
                continue;
            }
            // What is over the limits is not given: whoever gave it could not have given it directly either.
            if self.refuse_too_many_given(&batch, &link).await.is_err() || self.has_all_roles(&batch, &link).await? {
                continue;
            }
            batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: link.role_id.clone() }));
            batch.push(self.role_links.upsert(link.id(), &link)?);
        }
        Ok(batch)
    }

    /// A giver who is no admin gives one account so many roles and no more, what the batch gives already counted.
    async fn refuse_too_many_given(&self, batch: &Batch, link: &RoleLinkRow) -> Result<()> {
        if link.by_admin || link.created_by == link.user_id {
            return Ok(());
        }
        let by_giver = [Filter::equals("userId", &*link.user_id), Filter::equals("createdBy", &*link.created_by)];
        let given = self.role_links.count(&by_giver).await? as usize + adds(batch, link);
        if given >= MAX_GIVEN {
            return Err(Error::forbidden(format!(
                "an account may give {MAX_GIVEN} roles to another: take some from that one, make one role of several, or \
                 have an admin give them"
            )));
        }
        Ok(())
    }

    /// Whether the account of this link has as many roles as one can have.
    async fn has_all_roles(&self, batch: &Batch, link: &RoleLinkRow) -> Result<bool> {
        let of_account = [Filter::equals("userId", link.user_id.as_str())];
        Ok(self.role_links.count(&of_account).await? + adds(batch, link) as u64 >= MAX_ROLES)
    }

    /// Adds to a batch that an account has a role from now on.
    pub(super) async fn give(&self, batch: &mut Batch, link: &RoleLinkRow) -> Result<()> {
        let unknown = || Error::not_found(format!("user not found: there is no account `{}`", shown(&link.user_id)));
        let user = self.users.get(&link.user_id).await?.ok_or_else(unknown)?;
        super::users::refuse_built_in(&user.value)?;
        self.refuse_too_many_given(batch, link).await?;
        let of_account = vec![Filter::equals("userId", link.user_id.as_str())];
        if self.has_all_roles(batch, link).await? {
            return Err(Error::invalid(format!("an account has at most {MAX_ROLES} roles")));
        }
        batch.push(Write::Require(Guard::Exists { collection: USERS.name, id: link.user_id.clone() }));
        batch.push(self.role_links.create(link.id(), link)?);
        batch.push(Write::Require(Guard::at_most(ROLE_LINKS.name, of_account, MAX_ROLES)));
        Ok(())
    }

    /// Adds to a batch that takes this role from someone: somebody must be left who has it, where it is a role without
    /// which nobody could give it back.
    pub(super) async fn keep_an_admin(&self, link: &RoleLinkRow, batch: Batch) -> Result<Batch> {
        let is_platform = link.role_id == openorch_api::role::ADMIN;
        if !is_platform && !super::organization::is_admin_role(&link.role_id) {
            return Ok(batch);
        }
        let have_it = vec![Filter::equals("roleId", link.role_id.as_str())];
        if self.role_links.count(&have_it).await? <= 1 {
            return Err(Error::conflict(if is_platform {
                "Cannot delete last admin user: give the role `user-svc:admin` to another account first".to_owned()
            } else {
                format!("nobody else has the role `{}`: make another account admin first", link.role_id)
            }));
        }
        Ok(batch.require(Guard::at_least(ROLE_LINKS.name, have_it, 1)))
    }
}

/// How many roles a batch gives to the account of this link, in any app.
fn adds(batch: &Batch, link: &RoleLinkRow) -> usize {
    let is_of_account = |id: &str| id.split(':').nth(1) == Some(link.user_id.as_str());
    let gives = |write: &&Write| matches!(write, Write::Create { collection, id, .. } | Write::Upsert { collection, id, .. } if *collection == ROLE_LINKS.name && is_of_account(id));
    batch.0.iter().filter(gives).count()
}

/// The app where the role is to count.
fn check(cx: &Cx<Users>, caller: &Caller, input: &EnrollInput) -> Result<Arc<str>> {
    if input.user_id.is_empty() == input.contact_id.is_empty() {
        return Err(Error::invalid("an enroll names a `userId` or a `contactId`"));
    }
    let who = if input.user_id.is_empty() { ("contactId", &input.contact_id) } else { ("userId", &input.user_id) };
    for (name, value) in [who, ("role", &input.role)] {
        openorch_api::input::check_name(name, value, 256).map_err(|error| Error::invalid(error.0))?;
    }
    let app = match input.app_host.as_str() {
        "" => caller.app.clone(),
        ALL_APPS => ALL_APPS.into(),
        host => cx.app_of_host(host)?,
    };
    if !may_give(caller, &input.role, &app) {
        return Err(refusal(&input.role));
    }
    if !cx.memory.rules().roles.contains_key(input.role.as_str()) {
        return Err(Error::not_found(if input.role.starts_with("user-svc:org:") {
            "the roles of an organization are given with POST /user-svc/organization/{organizationId}/user".to_owned()
        } else {
            format!("cannot find role `{}`; POST /user-svc/role makes one", shown(&input.role))
        }));
    }
    Ok(app)
}

/// Admins give all roles, an account those under its slug in each app, and who has the role `admin` of a prefix the
/// others of it in its app.
fn may_give(caller: &Caller, role: &str, app: &str) -> bool {
    if app == ALL_APPS {
        return caller.is_admin();
    }
    let beside_own = |prefix: &str| caller.roles.iter().any(|own| own.strip_suffix(":admin") == Some(prefix));
    let is_beside = *caller.app == *app && role.rsplit_once(':').is_some_and(|(prefix, _)| beside_own(prefix));
    caller.is_admin() || is_under_own_slug(caller, role) || is_beside
}

/// A new account is given what its maker may give, and what each account begins with in the maker's app.
pub fn refuse_foreign_roles(caller: &Caller, roles: &[String], app: &str) -> Result<()> {
    let may = |role: &str| (role == openorch_api::role::USER && *caller.app == *app) || may_give(caller, role, app);
    match roles.iter().find(|role| !may(role)) {
        Some(role) => Err(refusal(role)),
        None => Ok(()),
    }
}

fn is_under_own_slug(caller: &Caller, role: &str) -> bool {
    role.split_once(':').is_some_and(|(slug, _)| *slug == *caller.slug)
}

fn refusal(role: &str) -> Error {
    Error::forbidden(format!(
        "the role `{}` is not yours to give: that is for admins, for the account of the slug that it starts with, and \
         for those who have the `admin` role beside it",
        shown(role)
    ))
}

/// What is kept of a role that is given to whose a contact is.
fn for_contact(caller: &Caller, app: &str, input: &EnrollInput, now: Time) -> ContactEnrollRow {
    ContactEnrollRow {
        contact: normal(&input.contact_id),
        role_id: input.role.clone(),
        app: app_of(&input.role, app).to_owned(),
        created_at: now,
        created_by: caller.user_id.to_string(),
        by_admin: caller.is_admin(),
    }
}

/// An enroll as others than its account see it: where a contact was named, whether somebody has shown that it is its own,
/// and who, is told to admins alone.
fn shown_to(caller: &Caller, link: RoleLinkRow) -> Enroll {
    match (&link.by_contact, &link.contact_enroll_id) {
        (Some(contact), Some(id)) if !caller.is_admin() => {
            Enroll { id: id.clone(), user_id: String::new(), contact_id: contact.clone(), ..to_wire(link.clone()) }
        }
        _ => to_wire(link),
    }
}

fn waiting(row: ContactEnrollRow) -> Enroll {
    Enroll {
        id: row.id(),
        app_id: row.app,
        created_at: row.created_at,
        updated_at: row.created_at,
        user_id: String::new(),
        contact_id: row.contact,
        role: row.role_id,
        created_by: row.created_by,
    }
}

fn to_wire(row: RoleLinkRow) -> Enroll {
    Enroll {
        id: row.id(),
        app_id: row.app,
        created_at: row.created_at,
        updated_at: row.created_at,
        user_id: row.user_id,
        contact_id: String::new(),
        role: row.role_id,
        created_by: row.created_by,
    }
}
