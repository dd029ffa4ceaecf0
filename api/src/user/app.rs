//! Wire types of apps: tenants, identified by a host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::form;

/// A tenant. Accounts, slugs, passwords and contacts are shared by all apps; sessions, roles, permits and organizations
/// belong to one app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct App {
    /// Does not change with the host. The default app has the id and the host `unnamed`.
    pub id: String,
    /// The host name of the app, such as `shop.example.com`.
    pub host: String,
}

/// Selects apps; all apps if empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListAppsRequest {
    /// Apps with these ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 1000>")]
    pub ids: Vec<String>,
    /// Apps with these hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<260, 1000>")]
    pub host: Vec<String>,
}

/// Response of `listApps`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListAppsResponse {
    /// Sorted by id.
    pub apps: Vec<App>,
}

/// Body of `readApp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadAppRequest {
    /// Host of the app.
    #[schemars(schema_with = "form::given_text::<260>")]
    pub host: String,
}

/// Response of `readApp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReadAppResponse {
    /// The app with this host.
    pub app: App,
}

/// Body of `updateApp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateAppRequest {
    /// The app whose host changes; if omitted, an app is created.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<128>")]
    pub id: String,
    /// A host name or an address, optionally with a port: `shop.example.com`, `localhost:3000`. Also accepted as `host`, so
    /// that an app can be saved as it was listed.
    #[serde(alias = "host")]
    #[schemars(schema_with = "form::given_text::<260>")]
    pub new_host: String,
}

/// Query parameters of `deleteApp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeleteAppRequest {
    /// Also delete everything that belongs to the app: its sessions, organizations, invitations, permits and role
    /// assignments. The accounts themselves are kept.
    #[serde(skip_serializing_if = "super::is_false")]
    pub cascade: bool,
}

/// Response of `updateApp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UpdateAppResponse {
    /// The app as it was saved.
    pub app: App,
}

/// At least one field is required.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExchangeTokenRequest {
    /// The host of the app that the new token is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub new_app_host: String,
    /// The id of the app that the new token is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<128>")]
    pub new_app_id: String,
    /// The device name of the new session; derived from the original session by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub new_device: Option<String>,
}
