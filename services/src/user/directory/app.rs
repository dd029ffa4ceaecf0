//! Apps: tenants, identified by host. Accounts, slugs, passwords and contacts exist across all apps; sessions, roles,
//! permits and organizations belong to one. An app must be created explicitly; naming one does not create it.

use std::{collections::HashSet, sync::Arc};

use openorch_api::{
    Body, Json, Path, Query,
    error::access,
    user::{
        APP_MULTI_VIEW, App, AppId, DeleteAppRequest, Empty, ListAppsRequest, ListAppsResponse, ReadAppRequest,
        ReadAppResponse, UpdateAppRequest, UpdateAppResponse, errors,
    },
};
use openorch_chassis::{Cx, Error, Result, service::retry};
use openorch_store::{Batch, Filter, Guard, Query as Asked, Write};

use crate::user::{
    authn::rows::SESSIONS,
    authz::{
        apps::by_id,
        rows::{APPS, AppRow, CONTACT_ENROLLS, GrantRow, ROLE_LINKS},
        rules::{AccessRules, Change},
    },
    directory::{
        rows::{INVITATIONS, ORGANIZATIONS},
        state::Directory,
    },
    shared::{quote::quote, rows::DEFAULT_APP},
};

/// Apps are cached in memory with the access rules.
const MAX_APPS: usize = 10_000;
/// A host name (RFC 1035, section 2.3.4) and a port.
const MAX_HOST_BYTES: usize = 253 + 6;
/// What belongs to an app in this service, except permits, which are access rules. All have a field `app`, and each
/// commit that writes one requires that the app exists, see `Authz::require_app`.
const OWNED_COLLECTIONS: &[(&str, &str)] = &[
    (ROLE_LINKS.name, "roles assigned to accounts"),
    (CONTACT_ENROLLS.name, "pending roles for contacts"),
    (SESSIONS.name, "sessions"),
    (ORGANIZATIONS.name, "organizations"),
    (INVITATIONS.name, "invitations"),
];
/// Collections to which any account may add rows in any app.
const OPEN_COLLECTIONS: [&str; 2] = [ROLE_LINKS.name, CONTACT_ENROLLS.name];

pub fn may_list(cx: &Cx<Directory>, Body(request): &Body<ListAppsRequest>) -> Result<()> {
    if names_apps(request) || cx.authz.allows(cx.caller()?, APP_MULTI_VIEW.id) {
        return Ok(());
    }
    Err(Error::new(
        &access::PERMISSION_MISSING,
        format!("listing all apps needs the permission `{}`; select some by `ids` or `host`", APP_MULTI_VIEW.id),
    ))
}

fn names_apps(request: &ListAppsRequest) -> bool {
    !request.ids.is_empty() || !request.host.is_empty()
}

pub async fn list(cx: Cx<Directory>, Body(request): Body<ListAppsRequest>) -> Result<Json<ListAppsResponse>> {
    let is_open = !names_apps(&request);
    let hosts: HashSet<String> = request.host.iter().map(|host| host.to_lowercase()).collect();
    let ids: HashSet<String> = request.ids.into_iter().collect();
    let fits = |app: &App| is_open || ids.contains(&app.id) || hosts.contains(&app.host);
    let rules = cx.authz.rules();
    let mut apps: Vec<App> =
        rules.apps.values().map(|row| (&**row).into()).chain([default_app()]).filter(fits).collect();
    apps.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(ListAppsResponse { apps }))
}

pub async fn read(cx: Cx<Directory>, Body(request): Body<ReadAppRequest>) -> Result<Json<ReadAppResponse>> {
    let id = cx.authz.app_of_host(&request.host)?;
    Ok(Json(ReadAppResponse { app: cx.authz.app(&id) }))
}

pub async fn update(cx: Cx<Directory>, Body(request): Body<UpdateAppRequest>) -> Result<Json<UpdateAppResponse>> {
    if request.id == DEFAULT_APP && request.new_host == DEFAULT_APP {
        // Allows a client to send back the default app as listed.
        return Ok(Json(UpdateAppResponse { app: cx.authz.app(DEFAULT_APP) }));
    }
    let host = parse_host(&request.new_host)?;
    let now = cx.now();
    let mut answer = UpdateAppResponse::default();
    cx.authz
        .change_rules(&cx.request.audit, |rules| {
            let before = match request.id.as_str() {
                "" => None,
                DEFAULT_APP => {
                    return Err(Error::new(
                        &errors::APP_BUILT_IN,
                        format!("the app `{DEFAULT_APP}` is built in and cannot be changed"),
                    ));
                }
                id => Some(by_id(rules, id)?),
            };
            if rules.apps.get(host.as_str()).is_some_and(|known| before.is_none_or(|before| before.id != known.id)) {
                return Err(Error::new(
                    &errors::APP_HOST_TAKEN,
                    format!("an app with the host `{host}` already exists"),
                ));
            }
            if before.is_none() && rules.apps.size() >= MAX_APPS {
                return Err(Error::new(
                    &errors::TOO_MANY_APPS,
                    format!("there are {MAX_APPS} apps, the maximum; delete one first"),
                ));
            }
            let row = AppRow {
                id: before.map_or_else(|| cx.platform.ids.next("app"), |row| row.id.clone()),
                host,
                created_at: before.map_or(now, |row| row.created_at),
                updated_at: now,
            };
            answer = UpdateAppResponse { app: (&row).into() };
            cx.request.audit.set_answer(&answer)?;
            let fresh = Guard::Absent { collection: APPS.name, id: row.id.clone() };
            let batch = if before.is_none() { Batch::new().require(fresh) } else { Batch::new() };
            Ok((vec![Change::SaveApp(row)], batch))
        })
        .await?;
    Ok(Json(answer))
}

/// Without `cascade`, only an empty app is deleted. Roles that accounts other than admins assigned in it are ignored,
/// or any account could prevent the deletion.
pub async fn delete(
    cx: Cx<Directory>,
    (Path(id), Query(request)): (Path<AppId>, Query<DeleteAppRequest>),
) -> Result<Json<Empty>> {
    if id.0 == DEFAULT_APP {
        return Err(Error::new(
            &errors::APP_BUILT_IN,
            format!("the app `{DEFAULT_APP}` is built in and cannot be deleted"),
        ));
    }
    let by = &cx.caller()?.user_id;
    let outcome = retry(|| async {
        let host = by_id(&cx.authz.rules(), &id.0)?.host.clone();
        let admins = cx.admins().await?;
        if !request.cascade {
            require_empty(&host, cx.remaining_in(&id.0, &admins).await?)?;
        }
        let mut batch = Batch::new();
        for (collection, _) in cx.owned_collections() {
            let filters = match (request.cascade, OPEN_COLLECTIONS.contains(collection)) {
                (true, _) => of_app(&id.0),
                (false, true) => [of_app(&id.0), not_assigned_by_admins()].concat(),
                (false, false) => continue,
            };
            // Organizations are deleted with tombstones, see below.
            if *collection != ORGANIZATIONS.name {
                cx.authz.delete_in_batches(&cx.request.audit, collection, &filters).await?;
                batch.push(Write::DeleteWhere { collection, filters });
            }
        }
        if request.cascade {
            batch.0.extend(cx.without_organizations_of(by, &id.0).await?.0);
        }
        for (collection, _) in cx.owned_collections() {
            batch.push(Write::Require(Guard::at_most(collection, of_app(&id.0), 0)));
        }
        cx.authz
            .change_rules(&cx.request.audit, |rules| {
                by_id(rules, &id.0)?;
                if !request.cascade {
                    require_empty(&host, permits_of_admins(rules, &id.0, &admins))?;
                }
                let permits = permits_in(rules, &id.0).map(|row| Change::DeleteGrant(row.id.clone()));
                Ok((permits.chain([Change::DeleteApp(id.0.clone())]).collect(), batch))
            })
            .await
    })
    .await;
    // Also for accounts that joined concurrently, and if the outcome is unknown.
    cx.authz.cache.all_rights_changed();
    cx.authn.sessions.cache.clear();
    cx.app_deletion_hooks.iter().for_each(|hook| hook.app_deleted());
    outcome?;
    Ok(Json(Empty {}))
}

fn require_empty(host: &str, left: Vec<String>) -> Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        &errors::APP_NOT_EMPTY,
        format!(
            "the app `{host}` is not empty: it has {}; delete those first, or send `cascade=true` to delete them with it",
            left.join(", ")
        ),
    ))
}

fn of_app(id: &str) -> Vec<Filter> {
    vec![Filter::equals("app", id)]
}

fn permits_in<'a>(rules: &'a AccessRules, app: &str) -> impl Iterator<Item = &'a Arc<GrantRow>> {
    rules.grants.values().filter(move |row| row.app == app)
}

fn permits_of_admins(rules: &AccessRules, app: &str, admins: &HashSet<String>) -> Vec<String> {
    let count = permits_in(rules, app).filter(|row| admins.contains(&row.owner_id)).count();
    (count > 0).then(|| format!("{count} permits")).into_iter().collect()
}

/// Roles assigned by accounts other than admins, which do not make anyone a member of the app.
fn not_assigned_by_admins() -> Vec<Filter> {
    vec![Filter::equals("byAdmin", false), Filter::range("createdBy", Some("!".into()), None)]
}

impl Directory {
    /// What prevents the deletion of an app. Scans rows of all apps, since apps are rarely deleted.
    async fn remaining_in(&self, app: &str, admins: &HashSet<String>) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (collection, what) in self.owned_collections() {
            let plain = match OPEN_COLLECTIONS.contains(collection) {
                true => {
                    self.platform.store.count(collection, &[of_app(app), not_assigned_by_admins()].concat()).await?
                }
                false => 0,
            };
            let count = self.platform.store.count(collection, &of_app(app)).await?.saturating_sub(plain);
            left.extend((count > 0).then(|| format!("{count} {what}")));
        }
        left.extend(permits_of_admins(&self.authz.rules(), app, admins));
        Ok(left)
    }

    /// What belongs to an app, here and in other services.
    fn owned_collections(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        OWNED_COLLECTIONS.iter().chain(self.app_deletion_hooks.iter().flat_map(|hook| hook.collections()))
    }

    /// The ids of the admins.
    async fn admins(&self) -> Result<HashSet<String>> {
        let links = self.authz.role_links.find(&Asked::all().equals("roleId", openorch_api::role::ADMIN)).await?;
        Ok(links.into_iter().map(|link| link.value.user_id).collect())
    }
}

fn default_app() -> App {
    App { id: DEFAULT_APP.to_owned(), host: DEFAULT_APP.to_owned() }
}

/// A host as sent by browsers: a name or an address in lower case, optionally with a port.
fn parse_host(host: &str) -> Result<String> {
    let host = host.to_lowercase();
    let (name, port) = host.split_once(':').unwrap_or((&host, "1"));
    let fits = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_host = name.split('.').all(fits) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if host.len() > MAX_HOST_BYTES || !is_host || host == DEFAULT_APP {
        return Err(Error::invalid(format!(
            "`{}` is not a host; use a name such as `shop.example.com`, optionally with a port",
            quote(&host)
        )));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::parse_host;

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
            assert_eq!(parse_host(host).ok().as_deref(), want, "{host}");
        }
    }
}
