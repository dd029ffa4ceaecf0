//! Wire types of apps: tenants, known by a host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::form;

/// A tenant. Accounts, slugs, passwords and contacts are of all apps; sessions, roles, permits and organizations of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct App {
    /// Stays when the host changes. That of the default app is `unnamed`, as is its host.
    pub id: String,
    /// Where people reach it, such as `shop.example.com`.
    pub host: String,
}

/// Which apps; all of them where none is named.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListAppsRequest {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 1000>")]
    pub ids: Vec<String>,
    /// Those of these hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<260, 1000>")]
    pub host: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListAppsResponse {
    /// By id.
    pub apps: Vec<App>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadAppRequest {
    #[schemars(schema_with = "form::given_text::<260>")]
    pub host: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReadAppResponse {
    pub app: App,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateAppRequest {
    /// The app whose host changes; where it is left out, one is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<128>")]
    pub id: String,
    /// A name or an address, with a port where it has one: `shop.example.com`, `localhost:3000`. Also as `host`, as an app
    /// has it, so that what was listed can be saved.
    #[serde(alias = "host")]
    #[schemars(schema_with = "form::given_text::<260>")]
    pub new_host: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeleteAppRequest {
    /// Also delete what belongs to the app: its sessions, organizations, invitations, permits and roles of accounts. The
    /// accounts themselves stay.
    #[serde(skip_serializing_if = "super::is_false")]
    pub cascade: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UpdateAppResponse {
    pub app: App,
}

/// At least one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExchangeTokenRequest {
    /// The app that the new token is for, by its host.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub new_app_host: String,
    /// The same by its id.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<128>")]
    pub new_app_id: String,
    /// What the new session is called; named after the one it comes from where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub new_device: Option<String>,
}
