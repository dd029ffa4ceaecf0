//! Enrolls: role assignments. Changes take effect on the account's next request.

use std::{collections::BTreeSet, sync::Arc};

use openorch_api::{
    Body, Json, Path, Time,
    user::{
        Empty, Enroll, EnrollId, EnrollInput, ListEnrollsRequest, ListEnrollsResponse, SaveEnrollsRequest,
        SaveEnrollsResponse, errors,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result, audit::CallAudit, service::retry};
use openorch_store::{Batch, Cursor, Filter, Guard, Query, Stored, Write};
use serde_json::Value;

use crate::{
    query::Paging,
    user::{
        authz::{
            guards::assignment_guard,
            roles::{
                assignable::{is_under_own_slug, may_assign, not_assignable},
                assignments::RoleAssignments,
            },
            rows::{ContactEnrollRow, ROLES, RoleLinkRow, app_of},
            state::Authz,
        },
        shared::{
            contact_address::{check_value, normalize},
            quote::quote,
            rows::ALL_APPS,
        },
    },
};

/// Prefix of the ids of enrolls by contact; no app has this name.
const CONTACT_PREFIX: &str = "contact:";
/// Tags of a cursor; see [`EnrollCursor`].
const ACCOUNTS_CURSOR: &str = "accounts";
const CONTACTS_CURSOR: &str = "contacts";

pub fn may_save(cx: &Cx<Authz>, Body(request): &Body<SaveEnrollsRequest>) -> Result<()> {
    let caller = cx.caller()?;
    for input in &request.enrolls {
        if !may_assign(caller, &input.role, &app_of_input(cx, caller, input)?) {
            return Err(not_assignable(&input.role));
        }
    }
    Ok(())
}

pub async fn save(cx: Cx<Authz>, Body(request): Body<SaveEnrollsRequest>) -> Result<Json<SaveEnrollsResponse>> {
    let caller = cx.caller()?;
    let mut apps = Vec::new();
    for input in &request.enrolls {
        apps.push(check(&cx, caller, input)?);
    }
    // Processing a long list takes time, so the commit requires that the rights still hold.
    for (input, app) in request.enrolls.iter().zip(&apps) {
        cx.request.audit.require_permission_guards(assignment_guard(caller, &input.role, app));
    }
    // One timestamp for all: separate ones would reveal how long each took, and so what was found.
    let now = cx.now();
    let enrolls = retry(|| async {
        let mut giving = RoleAssignments::with(Batch::new());
        let mut enrolls: Vec<Enroll> = Vec::new();
        for (input, app) in request.enrolls.iter().zip(&apps) {
            enrolls.push(cx.add_enroll(&mut giving, caller, app, input, now).await?);
        }
        let given = giving.accounts();
        cx.commits
            .commit(&cx.request.audit, giving.batch(&cx.limits), || {
                given.iter().for_each(|id| cx.cache.rights_changed(id))
            })
            .await?;
        Ok(enrolls)
    })
    .await?;
    let mut seen = BTreeSet::new();
    let enrolls = enrolls.into_iter().filter(|enroll| seen.insert(enroll.id.clone())).collect();
    Ok(Json(SaveEnrollsResponse { enrolls }))
}

pub fn may_list(cx: &Cx<Authz>, Body(request): &Body<ListEnrollsRequest>) -> Result<()> {
    let caller = cx.caller()?;
    let is_own = request.user_id.as_deref() == Some(&*caller.user_id);
    match request.role.as_deref().filter(|role| !role.is_empty()) {
        _ if is_own || caller.is_admin() => Ok(()),
        Some(role) if may_assign(caller, role, &caller.app) => Ok(()),
        Some(role) => Err(not_assignable(role)),
        None => Err(Error::new(&errors::ROLE_NOT_GIVABLE, "name your own `userId`, or a `role` that you may assign")),
    }
}

pub async fn list(cx: Cx<Authz>, Body(request): Body<ListEnrollsRequest>) -> Result<Json<ListEnrollsResponse>> {
    let caller = cx.caller()?;
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let role = request.role.filter(|role| !role.is_empty());
    let user_id = request.user_id.filter(|id| !id.is_empty());
    let is_own = user_id.as_deref() == Some(&*caller.user_id);
    let sees_all = is_own || caller.is_admin() || role.as_deref().is_some_and(|role| is_under_own_slug(caller, role));
    let contact = request.contact_id.filter(|id| !id.is_empty()).map(|contact| normalize(&contact));
    if role.is_none() && user_id.is_none() && contact.is_none() {
        return Err(Error::invalid("name a `role`, a `userId` or a `contactId`"));
    }
    // Rows that the caller may not see are excluded by the queries: filtering a page afterwards would reveal them by
    // its length and `next`.
    let app = (!sees_all).then(|| caller.app.to_string());
    let named = [("roleId", &role), ("userId", &user_id), ("app", &app)];
    let named = named.into_iter().filter_map(|(field, value)| Some(Filter::equals(field, value.as_deref()?)));
    let named: Vec<Filter> = named.collect();
    let place = paging.after.as_deref().map_or(Ok(EnrollCursor::start(contact.is_some())), EnrollCursor::parse)?;
    let wanted = paging.limit + 1;
    let (mut enrolls, mut next) = (Vec::new(), String::new());
    let mut contacts_after = match place {
        EnrollCursor::Contacts(after) => Some(after),
        EnrollCursor::Accounts(after) if contact.is_none() => {
            let mut query = Query { filters: named.clone(), after, ..Query::all() }.limit(wanted as u64);
            // When listing by role, roles assigned by contact are listed together with pending ones. And listing the
            // roles of another account must not reveal that a contact belongs to it.
            if user_id.is_none() || !(is_own || caller.is_admin()) {
                query = query.equals("byContact", Value::Null);
            }
            let rows = cx.role_links.find(&query).await?;
            enrolls.extend(rows.into_iter().map(|row| Enroll::from(row.value)));
            (enrolls.len() < wanted && user_id.is_none()).then(ContactCursor::default)
        }
        EnrollCursor::Accounts(_) => return Err(invalid_cursor()),
    };
    if enrolls.len() == wanted {
        enrolls.truncate(paging.limit);
        next = enrolls.last().map(|last| EnrollCursor::format(ACCOUNTS_CURSOR, [&last.id, ""])).unwrap_or_default();
    }
    if let Some(after) = contacts_after.take().filter(|_| user_id.is_none()) {
        let remaining = wanted - enrolls.len();
        let contact_query = ContactEnrollQuery { filters: named, contact, caller };
        let mut found = cx.enrolls_by_contact(&contact_query, after.clone(), remaining).await?;
        if found.len() == remaining {
            found.truncate(remaining - 1);
            let last = found.last().map_or(&after, |(place, _)| place);
            next = EnrollCursor::format(CONTACTS_CURSOR, [&last.enroll_id, &last.link_id]);
        }
        enrolls.extend(found.into_iter().map(|(_, enroll)| enroll));
    }
    paging.check_length(
        enrolls.len() + usize::from(!next.is_empty()),
        "enrolls",
        "name a role and an account, or a `limit`",
    )?;
    Ok(Json(ListEnrollsResponse { enrolls, next }))
}

/// The cursor of a list: first the roles of accounts, ordered by id, then the roles assigned by contact. It contains
/// nothing that the previous page did not show.
enum EnrollCursor {
    Accounts(Option<Cursor>),
    Contacts(ContactCursor),
}

/// Roles assigned by contact are ordered by the id that the assigner sees, which is the same whether or not the contact
/// is verified.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct ContactCursor {
    enroll_id: String,
    /// For admins only: the id of the resulting role link. Several accounts may have had the contact.
    link_id: String,
}

impl EnrollCursor {
    fn start(by_contact: bool) -> EnrollCursor {
        if by_contact { EnrollCursor::Contacts(ContactCursor::default()) } else { EnrollCursor::Accounts(None) }
    }

    fn parse(text: &str) -> Result<EnrollCursor> {
        match serde_json::from_str::<(String, String, String)>(text) {
            Ok((among, id, _)) if among == ACCOUNTS_CURSOR => {
                Ok(EnrollCursor::Accounts(Some(Cursor { values: Vec::new(), id: Some(id) })))
            }
            Ok((among, enroll_id, link_id)) if among == CONTACTS_CURSOR => {
                Ok(EnrollCursor::Contacts(ContactCursor { enroll_id, link_id }))
            }
            _ => Err(invalid_cursor()),
        }
    }

    fn format(among: &str, [id, link_id]: [&str; 2]) -> String {
        serde_json::json!([among, id, link_id]).to_string()
    }
}

fn invalid_cursor() -> Error {
    Error::invalid("`after` must be the `next` of the previous response")
}

/// The query for roles assigned by contact, and the caller.
struct ContactEnrollQuery<'a> {
    /// Filters for both pending roles and role links.
    filters: Vec<Filter>,
    contact: Option<String>,
    caller: &'a Caller,
}

impl ContactEnrollQuery<'_> {
    fn query(&self, contact_field: &str, room: usize) -> Query {
        let by_contact = self.contact.as_deref().map(|contact| Filter::equals(contact_field, contact));
        let filters = self.filters.iter().cloned().chain(by_contact).collect();
        Query { filters, ..Query::all() }.limit(room as u64)
    }
}

/// Only accounts that may assign the role may learn whether an account has it. An account may remove its own roles.
/// Roles assigned by contact are checked in `remove_by_contact`.
pub fn may_delete(cx: &Cx<Authz>, Path(id): &Path<EnrollId>) -> Result<()> {
    let caller = cx.caller()?;
    let parts: Vec<&str> = id.0.splitn(3, ':').collect();
    match &*parts {
        [app, user_id, role]
            if !id.0.starts_with(CONTACT_PREFIX) && !may_assign(caller, role, app) && **user_id != *caller.user_id =>
        {
            Err(not_assignable(role))
        }
        _ => Ok(()),
    }
}

pub async fn delete(cx: Cx<Authz>, Path(id): Path<EnrollId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let unknown = || no_such_enroll(&id);
    if id.0.starts_with(CONTACT_PREFIX) {
        return cx.remove_by_contact(&cx.request.audit, caller, &id).await;
    }
    retry(|| async {
        let Stored { value: link, version, id, .. } = cx.role_links.get(&id.0).await?.ok_or_else(unknown)?;
        let is_own = *link.user_id == *caller.user_id;
        // Nor may removal reveal to whom a contact belongs.
        let is_hidden = link.by_contact.is_some() && !caller.is_admin();
        if !is_own && (is_hidden || !may_assign(caller, &link.role_id, &link.app)) {
            return Err(unknown());
        }
        if !is_own {
            cx.request.audit.require_permission_guards(assignment_guard(caller, &link.role_id, &link.app));
        }
        let batch = cx.ensure_last_admin(&link, Batch::new().with(cx.role_links.delete(&id, Some(version)))).await?;
        cx.commits.commit(&cx.request.audit, batch, || cx.cache.rights_changed(&link.user_id)).await?;
        Ok(Json(Empty {}))
    })
    .await
}

impl Authz {
    /// Roles assigned by contact after a cursor, pending or assigned, in one order. At most `max`; fewer only at the
    /// end.
    async fn enrolls_by_contact(
        &self,
        asked: &ContactEnrollQuery<'_>,
        mut after: ContactCursor,
        most: usize,
    ) -> Result<Vec<(ContactCursor, Enroll)>> {
        let reveals_account = asked.caller.is_admin();
        let mut found: Vec<(ContactCursor, Enroll)> = Vec::new();
        loop {
            let remaining = most - found.len();
            let mut links = asked.query("byContact", remaining).ascending("contactEnrollId");
            links = links.filter(Filter::range("contactEnrollId", Some("".into()), None));
            let mut pending = asked.query("contact", remaining);
            if !after.enroll_id.is_empty() {
                let id = reveals_account.then(|| after.link_id.clone());
                links = links.after(Cursor { values: vec![after.enroll_id.as_str().into()], id });
                pending = pending.after(Cursor { values: Vec::new(), id: Some(after.enroll_id.clone()) });
            }
            let (links, waits) = (self.role_links.page(&links).await?, self.contact_enrolls.page(&pending).await?);
            let of_link = |row: Stored<RoleLinkRow>| {
                let enroll_id = row.value.contact_enroll_id.clone().unwrap_or_default();
                let link_id = if reveals_account { row.id } else { String::new() };
                (ContactCursor { enroll_id, link_id }, visible_enroll(asked.caller, row.value))
            };
            let of_waiting = |row: Stored<ContactEnrollRow>| {
                (ContactCursor { enroll_id: row.id, link_id: String::new() }, Enroll::from(row.value))
            };
            let (has_more_links, has_more_pending) = (links.next.is_some(), waits.next.is_some());
            let links: Vec<_> = links.items.into_iter().map(of_link).collect();
            let waits: Vec<_> = waits.items.into_iter().map(of_waiting).collect();
            // If one of the lists was cut, entries past its last one are incomplete.
            let ends =
                [(&links, has_more_links), (&waits, has_more_pending)].into_iter().filter(|(_, goes_on)| *goes_on);
            let end = ends.filter_map(|(rows, _)| Some(rows.last()?.0.clone())).min();
            let has_more = end.is_some();
            let mut rows: Vec<_> = links.into_iter().chain(waits).collect();
            rows.retain(|(place, _)| end.as_ref().is_none_or(|end| place <= end));
            rows.sort_by(|(a, _), (b, _)| a.cmp(b));
            if let Some((last, _)) = rows.last() {
                after = last.clone();
            }
            for (place, enroll) in rows {
                // A role that is pending again, because its contact lost its owner, looks the same as the assigned one.
                let is_known = found.last().is_some_and(|(last, _)| last.enroll_id == place.enroll_id);
                if reveals_account || !is_known {
                    found.push((place, enroll));
                }
            }
            if found.len() >= most || !has_more {
                found.truncate(most);
                return Ok(found);
            }
        }
    }

    /// Removes a role assigned by contact, both pending and from each account that got it, in one batch. The response
    /// does not reveal which existed.
    async fn remove_by_contact(&self, call: &CallAudit, caller: &Caller, id: &EnrollId) -> Result<Json<Empty>> {
        retry(|| async {
            let may_take = |role: &str, app: &str| may_assign(caller, role, app);
            let waits =
                self.contact_enrolls.get(&id.0).await?.filter(|row| may_take(&row.value.role_id, &row.value.app));
            let mut links = self.role_links.find(&Query::all().equals("contactEnrollId", id.0.as_str())).await?;
            links.retain(|Stored { value: link, .. }| {
                *link.user_id == *caller.user_id || may_take(&link.role_id, &link.app)
            });
            if waits.is_none() && links.is_empty() {
                return Err(no_such_enroll(id));
            }
            let mut batch: Batch =
                waits.iter().map(|waits| self.contact_enrolls.delete(&waits.id, Some(waits.version))).collect();
            let of_links = links.iter().map(|link| &link.value).filter(|link| *link.user_id != *caller.user_id);
            let taken = of_links.map(|link| (&link.role_id, &link.app));
            for (role, app) in taken.chain(waits.iter().map(|waits| (&waits.value.role_id, &waits.value.app))) {
                call.require_permission_guards(assignment_guard(caller, role, app));
            }
            for link in &links {
                batch.push(self.role_links.delete(&link.id, Some(link.version)));
                batch = self.ensure_last_admin(&link.value, batch).await?;
            }
            let forget = || links.iter().for_each(|link| self.cache.rights_changed(&link.value.user_id));
            self.commits.commit(call, batch, forget).await?;
            Ok(Json(Empty {}))
        })
        .await
    }

    /// Assigns a role to an account, or makes it pending until its contact is verified. For a contact, only admins
    /// learn which: for all others it stays pending even if the account of the contact already has the role otherwise,
    /// or its quota is reached.
    async fn add_enroll(
        &self,
        giving: &mut RoleAssignments,
        caller: &Caller,
        app: &str,
        input: &EnrollInput,
        now: Time,
    ) -> Result<Enroll> {
        let by_contact = input.user_id.is_empty().then(|| contact_enroll_row(caller, app, input, now));
        let (owner, waits) = match &by_contact {
            None => (Some(input.user_id.clone()), None),
            Some(row) => {
                let owner = self.accounts.by_contact(&row.contact).await?.filter(|owner| owner.value.verified);
                (owner.map(|owner| owner.value.user_id), self.contact_enrolls.get(&row.id()).await?)
            }
        };
        let link = owner.map(|id| {
            let link = RoleLinkRow::new(app, &id, &input.role, now);
            by_contact.as_ref().map_or_else(|| link.clone().assigned_by(caller), |row| link.clone().of_pending(row))
        });
        let existing = match &link {
            Some(link) => match giving.links.get(&link.id()) {
                Some(given) => Some(given.clone()),
                None => self.role_links.get(&link.id()).await?.map(|known| known.value),
            },
            None => None,
        };
        if let (Some(known), Some(link)) = (&existing, &link) {
            if let (Some(waits), None, false) = (known.to_pending(), &by_contact, known.by_admin || caller.is_admin()) {
                self.count_assignment(giving, caller).await?;
                self.convert_to_id(giving, link, &waits).await?;
                return Ok(Enroll::from(link.clone()));
            }
            let is_same_enroll = known.contact_enroll_id == link.contact_enroll_id;
            if is_same_enroll || by_contact.is_none() || caller.is_admin() {
                return Ok(visible_enroll(caller, if is_same_enroll { known.clone() } else { link.clone() }));
            }
        }
        // A pending role of an assigner with fewer rights, or none anymore, is replaced.
        let kept_pending = match &waits {
            Some(known) => match self.assigner_of(&known.value).await? {
                Some(giver) if giver.is_admin() || !caller.is_admin() => Some(known.value.clone()),
                _ => None,
            },
            None => None,
        };
        giving.batch.0.extend(self.require_app(app)?);
        // The role must not be deleted meanwhile, or be assigned anew after being recreated.
        giving.batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: input.role.clone() }));
        if let (Some(row), None) = (&by_contact, &kept_pending) {
            self.check_contact_quota(giving, row).await?;
            self.count_assignment(giving, caller).await?;
            giving.contacts.push(row.contact.clone());
        }
        match (link, by_contact) {
            (Some(link), None) => {
                self.count_assignment(giving, caller).await?;
                self.assign(giving, link.clone()).await?;
                Ok(link.into())
            }
            (Some(link), Some(_))
                if existing.is_none() && (caller.is_admin() || self.check_quota(giving, &link).await?.is_ok()) =>
            {
                giving.batch.0.extend(waits.map(|row| self.contact_enrolls.delete(&row.id, Some(row.version))));
                self.assign(giving, link.clone()).await?;
                Ok(visible_enroll(caller, link))
            }
            // An existing pending role stays as first assigned.
            (_, Some(row)) => Ok(Enroll::from(match kept_pending {
                Some(known) => known,
                None => {
                    giving.batch.push(self.contact_enrolls.upsert(row.id(), &row)?);
                    row
                }
            })),
            (None, None) => Err(Error::invalid("an enroll needs either a `userId` or a `contactId`")),
        }
    }
}

fn no_such_enroll(id: &EnrollId) -> Error {
    Error::new(&errors::NO_SUCH_ENROLL, format!("there is no enroll `{}`", quote(&id.0)))
}

/// The app in which the role is assigned.
fn app_of_input(cx: &Cx<Authz>, caller: &Caller, input: &EnrollInput) -> Result<Arc<str>> {
    match input.app_host.as_str() {
        "" => Ok(caller.app.clone()),
        ALL_APPS => Ok(ALL_APPS.into()),
        host => cx.app_of_host(host),
    }
}

/// Validates an enroll; returns the app in which the role is assigned.
fn check(cx: &Cx<Authz>, caller: &Caller, input: &EnrollInput) -> Result<Arc<str>> {
    if input.user_id.is_empty() == input.contact_id.is_empty() {
        return Err(Error::invalid("an enroll needs either a `userId` or a `contactId`"));
    }
    if !input.contact_id.is_empty() {
        check_value("contactId", &input.contact_id)?;
    }
    let app = app_of_input(cx, caller, input)?;
    if !cx.rules().roles.contains_key(input.role.as_str()) {
        return Err(Error::new(
            &errors::NO_SUCH_ROLE,
            if input.role.starts_with("user-svc:org:") {
                "roles of an organization are assigned with POST /user-svc/organization/{organizationId}/user"
                    .to_owned()
            } else {
                format!("cannot find role `{}`; create it with POST /user-svc/role", quote(&input.role))
            },
        ));
    }
    Ok(app)
}

/// The row of a role assigned by contact.
fn contact_enroll_row(caller: &Caller, app: &str, input: &EnrollInput, now: Time) -> ContactEnrollRow {
    ContactEnrollRow {
        contact: normalize(&input.contact_id),
        role_id: input.role.clone(),
        app: app_of(&input.role, app).to_owned(),
        created_at: now,
        created_by: caller.user_id.to_string(),
        by_admin: caller.is_admin(),
    }
}

/// An enroll as shown to other accounts: for one by contact, only admins learn whether the contact is verified, and by
/// which account.
fn visible_enroll(caller: &Caller, link: RoleLinkRow) -> Enroll {
    match (&link.by_contact, &link.contact_enroll_id) {
        (Some(contact), Some(id)) if !caller.is_admin() => {
            Enroll { id: id.clone(), user_id: String::new(), contact_id: contact.clone(), ..Enroll::from(link.clone()) }
        }
        _ => link.into(),
    }
}
