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
use openorch_store::{Batch, Cursor, Filter, Guard, Query, Stored, Write};

use super::{
    Users,
    contact::{check_value, normal},
    giving::Giving,
    rows::{ALL_APPS, ContactEnrollRow, ROLES, RoleLinkRow, app_of},
    rules::{check_count, shown},
};
use crate::query::Paging;

const MAX_SAVED: usize = 1000;
/// What the ids of enrolls for contacts begin with; no app is called so.
const CONTACT_PREFIX: &str = "contact:";
/// Where a page of a list goes on: among the roles that accounts have, or among those that wait.
const GIVEN: &str = "given";
const WAITING: &str = "waiting";

pub async fn save(cx: Cx<Users>, Body(request): Body<SaveEnrollsRequest>) -> Result<Json<SaveEnrollsResponse>> {
    let caller = cx.caller()?;
    check_count("enrolls", request.enrolls.len(), MAX_SAVED)?;
    let mut apps = Vec::new();
    for input in &request.enrolls {
        apps.push(check(&cx, caller, input)?);
    }
    let enrolls = retry(|| async {
        let mut giving = Giving::default();
        let mut enrolls: Vec<Enroll> = Vec::new();
        for (input, app) in request.enrolls.iter().zip(&apps) {
            enrolls.push(cx.enroll(&mut giving, caller, app, input).await?);
        }
        let given = giving.accounts();
        cx.commit(giving.batch(&cx.settings.access_limits), |memory| {
            given.iter().for_each(|id| memory.rights_changed(id))
        })
        .await?;
        Ok(enrolls)
    })
    .await?;
    let mut told = BTreeSet::new();
    let enrolls = enrolls.into_iter().filter(|enroll| told.insert(enroll.id.clone())).collect();
    Ok(Json(SaveEnrollsResponse { enrolls }))
}

pub async fn list(cx: Cx<Users>, Body(request): Body<ListEnrollsRequest>) -> Result<Json<ListEnrollsResponse>> {
    let caller = cx.caller()?;
    let paging = Paging::new(request.limit, request.after, cx.shared.list_most)?;
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
    let (is_waiting, mut after) = place(&paging)?;
    let mut left = paging.limit + usize::from(!paging.is_page);
    let asked = |field: &str, value: &Option<String>, limit: usize, after: Option<Cursor>| {
        let named = [(field, value), ("roleId", &role)];
        let filters = named.into_iter().filter_map(|(field, value)| Some(Filter::equals(field, value.as_deref()?)));
        Query { filters: filters.collect(), after, ..Query::all() }.limit(limit as u64)
    };
    let (mut enrolls, mut next) = (Vec::new(), String::new());
    let by = if contact.is_some() { ("byContact", &contact) } else { ("userId", &user_id) };
    // Who asks for an account's is not told that a contact is its.
    let is_told = |link: &RoleLinkRow| is_own || caller.is_admin() || user_id.is_none() || link.by_contact.is_none();
    if !is_waiting && (contact.is_none() || user_id.is_none()) {
        let page = cx.role_links.page(&asked(by.0, by.1, left, after.take())).await?;
        left -= page.items.len();
        next = page.next.map(|next| place_text(GIVEN, next.id)).unwrap_or_default();
        let rows = page.items.into_iter().map(|row| row.value);
        enrolls.extend(rows.filter(is_told).map(|link| if is_own { to_wire(link) } else { shown_to(caller, link) }));
    }
    if user_id.is_none() && next.is_empty() {
        if left == 0 {
            next = place_text(WAITING, None);
        } else {
            let page = cx.contact_enrolls.page(&asked("contact", &contact, left, after)).await?;
            next = page.next.map(|next| place_text(WAITING, next.id)).unwrap_or_default();
            enrolls.extend(page.items.into_iter().map(|row| waiting(row.value)));
        }
    }
    paging.refuse_long(enrolls.len(), "enrolls", "name a role and an account, or a `limit`")?;
    enrolls.retain(|enroll| sees_all || *enroll.app_id == *caller.app);
    Ok(Json(ListEnrollsResponse { enrolls, next }))
}

/// Whether a page begins among the roles that wait for contacts, and where.
fn place(paging: &Paging) -> Result<(bool, Option<Cursor>)> {
    let Some(after) = &paging.after else { return Ok((false, None)) };
    match serde_json::from_str::<(String, String)>(after) {
        Ok((among, id)) if [GIVEN, WAITING].contains(&among.as_str()) => {
            Ok((among == WAITING, Some(Cursor { values: Vec::new(), id: Some(id) })))
        }
        _ => Err(Error::invalid("`after` is the `next` of the answer before")),
    }
}

fn place_text(among: &str, id: Option<String>) -> String {
    serde_json::json!([among, id.unwrap_or_default()]).to_string()
}

pub async fn delete(cx: Cx<Users>, Path(id): Path<EnrollId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let unknown = || Error::not_found(format!("there is no enroll `{}`", shown(&id.0)));
    let is_by_contact = id.0.starts_with(CONTACT_PREFIX);
    // Whether there is one is told to those alone who could have given it; what was given unasked is put away by oneself.
    let parts: Vec<&str> = id.0.splitn(3, ':').collect();
    if let (false, [app, user_id, role]) = (is_by_contact, &*parts)
        && !may_give(caller, role, app)
        && **user_id != *caller.user_id
    {
        return Err(refusal(role));
    }
    retry(|| async {
        if is_by_contact && let Some(waits) = cx.contact_enrolls.get(&id.0).await? {
            if !may_give(caller, &waits.value.role_id, &waits.value.app) {
                return Err(unknown());
            }
            cx.store.commit(cx.contact_enrolls.delete(&waits.id, Some(waits.version)).into()).await?;
            return Ok(Json(Empty {}));
        }
        let found = match is_by_contact {
            true => cx.role_links.first(&Query::all().equals("contactEnrollId", id.0.as_str())).await?,
            false => cx.role_links.get(&id.0).await?,
        };
        let Stored { value: link, version, id, .. } = found.ok_or_else(unknown)?;
        let is_own = *link.user_id == *caller.user_id;
        // Nor does it show by what can be taken from whom whose a contact is.
        let is_hidden = !is_by_contact && link.by_contact.is_some() && !caller.is_admin();
        if !is_own && (is_hidden || !may_give(caller, &link.role_id, &link.app)) {
            return Err(unknown());
        }
        let batch = cx.keep_an_admin(&link, Batch::new().with(cx.role_links.delete(&id, Some(version)))).await?;
        cx.commit(batch, |memory| memory.rights_changed(&link.user_id)).await?;
        Ok(Json(Empty {}))
    })
    .await
}

impl Users {
    /// Adds that an account has a role, or that one waits for whoever shows that a contact is its own. Which of the two it
    /// is where a contact was named is told to admins alone: for all others it waits also where the account of the contact
    /// has the role already by another way, or has no room for it.
    async fn enroll(&self, giving: &mut Giving, caller: &Caller, app: &str, input: &EnrollInput) -> Result<Enroll> {
        let by_contact = input.user_id.is_empty().then(|| for_contact(caller, app, input, self.now()));
        let (owner, waits) = match &by_contact {
            None => (Some(input.user_id.clone()), None),
            Some(row) => {
                let owner = self.by_contact(&row.contact).await?.filter(|owner| owner.value.verified);
                (owner.map(|owner| owner.value.user_id), self.contact_enrolls.get(&row.id()).await?)
            }
        };
        let link = owner.map(|id| {
            let link = RoleLinkRow::new(app, &id, &input.role, self.now());
            by_contact.as_ref().map_or_else(|| link.clone().by(caller), |row| link.clone().by_contact_of(row))
        });
        let known = match &link {
            Some(link) => match giving.links.get(&link.id()) {
                Some(given) => Some(given.clone()),
                None => self.role_links.get(&link.id()).await?.map(|known| known.value),
            },
            None => None,
        };
        if let (Some(known), Some(link)) = (&known, &link) {
            if let (Some(contact), None, false) = (&known.by_contact, &by_contact, known.by_admin || caller.is_admin())
            {
                // Had by its id from now on, and the contact waits: as if nobody had shown yet that it is its own.
                let waits = ContactEnrollRow {
                    contact: contact.clone(),
                    role_id: known.role_id.clone(),
                    app: known.app.clone(),
                    created_at: known.created_at,
                    created_by: known.created_by.clone(),
                    by_admin: known.by_admin,
                };
                self.count_given(giving, caller).await?;
                giving.batch.push(self.contact_enrolls.upsert(waits.id(), &waits)?);
                giving.batch.push(self.role_links.upsert(link.id(), link)?);
                return Ok(to_wire(link.clone()));
            }
            let is_same_way = known.contact_enroll_id == link.contact_enroll_id;
            if is_same_way || by_contact.is_none() || caller.is_admin() {
                return Ok(shown_to(caller, if is_same_way { known.clone() } else { link.clone() }));
            }
        }
        // Another's word that counts less, or no more, gives way.
        let kept = match &waits {
            Some(known) => match self.giver_of(&known.value).await? {
                Some(giver) if giver.is_admin() || !caller.is_admin() => Some(known.value.clone()),
                _ => None,
            },
            None => None,
        };
        giving.batch.0.extend(self.in_app(app)?);
        // It may not go meanwhile, or be had again when it is made anew.
        giving.batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: input.role.clone() }));
        if let (Some(row), None) = (&by_contact, &kept) {
            self.refuse_too_many_for(giving, row).await?;
            self.count_given(giving, caller).await?;
            giving.contacts.push(row.contact.clone());
        }
        match (link, by_contact) {
            (Some(link), None) => {
                self.count_given(giving, caller).await?;
                self.give(giving, link.clone()).await?;
                Ok(to_wire(link))
            }
            (Some(link), Some(_))
                if known.is_none() && (caller.is_admin() || self.has_room(giving, &link).await?.is_ok()) =>
            {
                giving.batch.0.extend(waits.map(|row| self.contact_enrolls.delete(&row.id, Some(row.version))));
                self.give(giving, link.clone()).await?;
                Ok(shown_to(caller, link))
            }
            // It waits as it was given first.
            (_, Some(row)) => Ok(waiting(match kept {
                Some(known) => known,
                None => {
                    giving.batch.push(self.contact_enrolls.upsert(row.id(), &row)?);
                    row
                }
            })),
            (None, None) => Err(Error::invalid("an enroll names a `userId` or a `contactId`")),
        }
    }
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
    if !input.contact_id.is_empty() {
        check_value("contactId", &input.contact_id, 256)?;
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
pub(super) fn may_give(caller: &Caller, role: &str, app: &str) -> bool {
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
