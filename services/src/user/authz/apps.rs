//! Lookup of apps by host and id, and guards that an app exists at commit time.

use std::sync::Arc;

use openorch_api::user::{App, errors};
use openorch_chassis::{Error, Result};
use openorch_store::{Guard, Write};

use crate::user::{
    authz::{
        rows::{APPS, AppRow},
        rules::AccessRules,
        state::Authz,
    },
    shared::{
        quote::quote,
        rows::{ALL_APPS, DEFAULT_APP},
    },
};

impl Authz {
    /// A guard that the app exists at commit time.
    pub fn require_app(&self, app: &str) -> Result<Option<Write>> {
        if matches!(app, DEFAULT_APP | ALL_APPS) {
            return Ok(None);
        }
        let id = by_id(&self.load_rules(), app)?.id.clone();
        Ok(Some(Write::Require(Guard::Exists { collection: APPS.name, id })))
    }

    /// The id of the app with this host; of the default app if the host is empty.
    pub fn app_of_host(&self, host: &str) -> Result<Arc<str>> {
        if matches!(host, "" | DEFAULT_APP) {
            return Ok(DEFAULT_APP.into());
        }
        let rules = self.load_rules();
        match rules.apps.get(host.to_lowercase().as_str()) {
            Some(row) => Ok(row.id.as_str().into()),
            None => Err(Error::new(
                &errors::NO_SUCH_APP,
                format!(
                    "there is no app with the host `{}`; admins can create one with PUT /user-svc/app",
                    quote(host)
                ),
            )),
        }
    }

    pub fn app_with_id(&self, id: &str) -> Result<Arc<str>> {
        match id {
            DEFAULT_APP => Ok(DEFAULT_APP.into()),
            id => Ok(by_id(&self.load_rules(), id)?.id.as_str().into()),
        }
    }

    /// The app of a session, in the format of the API.
    pub fn app(&self, id: &str) -> App {
        match by_id(&self.load_rules(), id) {
            Ok(row) => row.into(),
            Err(_) => App { id: id.to_owned(), host: id.to_owned() },
        }
    }
}

pub fn by_id<'a>(rules: &'a AccessRules, id: &str) -> Result<&'a AppRow> {
    rules
        .app(id)
        .map(AsRef::as_ref)
        .ok_or_else(|| Error::new(&errors::NO_SUCH_APP, format!("there is no app with the id `{}`", quote(id))))
}
