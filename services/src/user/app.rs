//! Apps: tenants, known by a host. Accounts, slugs, passwords and contacts are of all apps; sessions, roles, permits and
//! organizations of one. An app is made by who may, never by being named.

use std::sync::Arc;

use openorch_api::{
    Body, Json, Path,
    user::{
        APP_MULTI_VIEW, App, AppId, Empty, ListAppsRequest, ListAppsResponse, ReadAppRequest, ReadAppResponse,
        UpdateAppRequest, UpdateAppResponse,
    },
};
use openorch_chassis::{Cx, Error, Identity, Result, service::retry};
use openorch_store::{Batch, Filter, Guard, Write};

use super::{
    Users,
    rows::{ALL_APPS, APPS, AppRow, CONTACT_ENROLLS, DEFAULT_APP, INVITATIONS, ORGANIZATIONS, ROLE_LINKS, SESSIONS},
    rules::{Change, Rules, check_count, shown},
};

/// Rules are held in memory, apps with them.
const MAX_APPS: usize = 10_000;
const MAX_NAMED: usize = 1000;
/// A host name (RFC 1035, section 2.3.4) and a port.
const MAX_HOST_BYTES: usize = 253 + 6;
/// What belongs to an app, permits aside, which are rules. All have a field `app`; whoever writes one says that the app
/// must be there: see [`Users::in_app`].
const BELONGINGS: &[(&str, &str)] = &[
    (ROLE_LINKS.name, "roles given to accounts"),
    (CONTACT_ENROLLS.name, "roles that wait for contacts"),
    (SESSIONS.name, "sessions"),
    (ORGANIZATIONS.name, "organizations"),
    (INVITATIONS.name, "invitations"),
];

pub async fn list(cx: Cx<Users>, Body(request): Body<ListAppsRequest>) -> Result<Json<ListAppsResponse>> {
    let caller = cx.caller()?;
    check_count("ids and hosts", request.ids.len() + request.host.len(), MAX_NAMED)?;
    let is_open = request.ids.is_empty() && request.host.is_empty();
    if is_open && !cx.allows(caller, APP_MULTI_VIEW.id) {
        return Err(Error::forbidden(format!(
            "all apps are for who has the permission `{}` to see; name some by `ids` or `host`",
            APP_MULTI_VIEW.id
        )));
    }
    let hosts: Vec<String> = request.host.iter().map(|host| host.to_lowercase()).collect();
    let fits = |app: &App| is_open || request.ids.contains(&app.id) || hosts.contains(&app.host);
    let rules = cx.memory.rules();
    let mut apps: Vec<App> = rules.apps.values().map(|row| row.to_wire()).chain([default_app()]).filter(fits).collect();
    apps.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(ListAppsResponse { apps }))
}

pub async fn read(cx: Cx<Users>, Body(request): Body<ReadAppRequest>) -> Result<Json<ReadAppResponse>> {
    if request.host.is_empty() {
        return Err(Error::invalid("Host is required"));
    }
    let id = cx.app_of_host(&request.host)?;
    Ok(Json(ReadAppResponse { app: cx.app(&id) }))
}

pub async fn update(cx: Cx<Users>, Body(request): Body<UpdateAppRequest>) -> Result<Json<UpdateAppResponse>> {
    if request.id == DEFAULT_APP && request.new_host == DEFAULT_APP {
        // As it is listed.
        return Ok(Json(UpdateAppResponse { app: cx.app(DEFAULT_APP) }));
    }
    let host = checked_host(&request.new_host)?;
    let now = cx.now();
    let mut app = App::default();
    cx.change_rules(|rules| {
        let before = match request.id.as_str() {
            "" => None,
            DEFAULT_APP => {
                return Err(Error::forbidden(format!("the app `{DEFAULT_APP}` is built in and keeps its name")));
            }
            id => Some(by_id(rules, id)?),
        };
        if rules.apps.get(host.as_str()).is_some_and(|known| before.is_none_or(|before| before.id != known.id)) {
            return Err(Error::conflict(format!("the app of the host `{host}` exists already")));
        }
        if before.is_none() && rules.apps.len() >= MAX_APPS {
            return Err(Error::invalid(format!("there are at most {MAX_APPS} apps")));
        }
        let row = AppRow {
            id: before.map_or_else(|| cx.shared.ids.next("app"), |row| row.id.clone()),
            host,
            created_at: before.map_or(now, |row| row.created_at),
            updated_at: now,
        };
        app = row.to_wire();
        let fresh = Guard::Absent { collection: APPS.name, id: row.id.clone() };
        let batch = if before.is_none() { Batch::new().require(fresh) } else { Batch::new() };
        Ok((vec![Change::SaveApp(row)], batch))
    })
    .await?;
    Ok(Json(UpdateAppResponse { app }))
}

/// For an app that was made by mistake. It takes nothing with it: what belongs to it may be worth more than it.
pub async fn delete(cx: Cx<Users>, Path(id): Path<AppId>) -> Result<Json<Empty>> {
    if id.0 == DEFAULT_APP {
        return Err(Error::forbidden(format!("the app `{DEFAULT_APP}` is built in and stays")));
    }
    let of_app = || vec![Filter::equals("app", id.0.as_str())];
    retry(|| async {
        let host = by_id(&cx.memory.rules(), &id.0)?.host.clone();
        // Rows of all apps are looked at, first by a reader, and once more before anybody else writes: apps go rarely.
        let mut left = Vec::new();
        let mut batch = Batch::new();
        for (collection, what) in BELONGINGS {
            let count = cx.store.count(collection, &of_app()).await?;
            left.extend((count > 0).then(|| format!("{count} {what}")));
            batch.push(Write::Require(Guard::at_most(collection, of_app(), 0)));
        }
        cx.change_rules(|rules| {
            by_id(rules, &id.0)?;
            let permits = rules.grants.values().filter(|row| row.app == id.0).count();
            left.extend((permits > 0).then(|| format!("{permits} permits")));
            if !left.is_empty() {
                return Err(Error::conflict(format!(
                    "the app `{host}` is not empty: {} belong to it; take those away first",
                    left.join(", ")
                )));
            }
            Ok((vec![Change::DeleteApp(id.0.clone())], batch))
        })
        .await
    })
    .await?;
    Ok(Json(Empty {}))
}

impl Users {
    /// That an app is there when something of it is written.
    pub(super) fn in_app(&self, app: &str) -> Result<Option<Write>> {
        if matches!(app, DEFAULT_APP | ALL_APPS) {
            return Ok(None);
        }
        let id = by_id(&self.memory.check_rules(), app)?.id.clone();
        Ok(Some(Write::Require(Guard::Exists { collection: APPS.name, id })))
    }

    /// The id of the app of a host; of the default one where none is named.
    pub(super) fn app_of_host(&self, host: &str) -> Result<Arc<str>> {
        if matches!(host, "" | DEFAULT_APP) {
            return Ok(DEFAULT_APP.into());
        }
        let rules = self.memory.check_rules();
        match rules.apps.get(host.to_lowercase().as_str()) {
            Some(row) => Ok(row.id.as_str().into()),
            None => Err(Error::not_found(format!(
                "there is no app of the host `{}`; who may make one does so with PUT /user-svc/app",
                shown(host)
            ))),
        }
    }

    pub(super) fn app_with_id(&self, id: &str) -> Result<Arc<str>> {
        match id {
            DEFAULT_APP => Ok(DEFAULT_APP.into()),
            id => Ok(by_id(&self.memory.check_rules(), id)?.id.as_str().into()),
        }
    }

    /// The app of a session, as others are told of it.
    pub(super) fn app(&self, id: &str) -> App {
        match by_id(&self.memory.check_rules(), id) {
            Ok(row) => row.to_wire(),
            Err(_) => App { id: id.to_owned(), host: id.to_owned() },
        }
    }
}

fn default_app() -> App {
    App { id: DEFAULT_APP.to_owned(), host: DEFAULT_APP.to_owned() }
}

fn by_id<'a>(rules: &'a Rules, id: &str) -> Result<&'a AppRow> {
    let found = rules.apps.values().find(|row| row.id == id);
    found.map(AsRef::as_ref).ok_or_else(|| Error::not_found(format!("there is no app with the id `{}`", shown(id))))
}

/// A host as browsers tell it: a name or an address, in lower case, perhaps with a port.
fn checked_host(host: &str) -> Result<String> {
    if host.is_empty() {
        return Err(Error::invalid("Host is required: `newHost`, such as `shop.example.com`"));
    }
    let host = host.to_lowercase();
    let (name, port) = host.split_once(':').unwrap_or((&host, "1"));
    let fits = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_host = name.split('.').all(fits) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if host.len() > MAX_HOST_BYTES || !is_host || host == DEFAULT_APP {
        return Err(Error::invalid(format!(
            "`{}` is no host: it is a name such as `shop.example.com`, with a port where it has one",
            shown(&host)
        )));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::checked_host;

    #[test]
    fn hosts_are_names_with_or_without_a_port() {
        for (host, want) in [
            ("Shop.Example.com", Some("shop.example.com")),
            ("localhost:3000", Some("localhost:3000")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("", None),
            ("unnamed", None),
            ("*", None),
            ("shop..com", None),
            ("-shop.com", None),
            ("shop.com:0", None),
            ("shop.com:99999", None),
            ("shop.com/path", None),
            ("a b", None),
        ] {
            assert_eq!(checked_host(host).ok().as_deref(), want, "{host}");
        }
    }
}
