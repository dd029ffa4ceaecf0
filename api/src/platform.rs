//! The paths of the daemon itself: what it is, whether it is well, its documents and metrics.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Access, Download, Html, Json, Samples, SharedJson, error, errors,
    header::{ETAG, IF_NONE_MATCH},
    ops, permissions,
};

pub static SERVICE: crate::Service = crate::Service {
    slug: "platform-svc",
    name: "OpenOrch",
    operations: OPERATIONS,
    permissions: PERMISSIONS,
    errors: ERRORS,
};

errors! {
    BACKUP_RUNNING 409 "platform.backup_running" "another backup is being made"
        "wait for it";
}

permissions! {
    METRICS_VIEW "platform-svc:metrics:view" "Read the metrics of the daemon." [ADMIN], OF_ALL_APPS;
    BACKUP_CREATE "platform-svc:backup:create" "Copy all data of the daemon, secrets included." [ADMIN], OF_ALL_APPS;
}

ops! {
    /// What this is, and where to go next.
    WELCOME "welcome" = GET "/" () -> Json<Welcome>, access: Access::Public;

    /// Whether the process runs.
    HEALTH "health" = GET "/health" () -> Json<Health>, access: Access::Public;

    /// Whether the daemon can serve: its store answers.
    READY "ready" = GET "/ready" () -> Json<Health>,
        access: Access::Public, errors: &[&error::platform::STORE_UNAVAILABLE];

    /// This document.
    OPENAPI "openapi" = GET "/openapi.json" () -> SharedJson,
        access: Access::Public, reads: &[&IF_NONE_MATCH], sets: &[&ETAG];

    /// The operations as a page to read.
    DOCS "docs" = GET "/docs" () -> Html,
        access: Access::Public, reads: &[&IF_NONE_MATCH], sets: &[&ETAG];

    /// All data of the daemon as of one moment, in a file for `openorch restore`.
    ///
    /// The daemon copies its data beside the running work, by the connections that it has, also where the files of its
    /// database were removed; that takes as much free disk as there is data, and nothing comes before the copy is whole.
    /// The file holds all secrets, and the key that decrypts them if the daemon made it for itself: keep it as safe as the
    /// data folder.
    BACKUP "backup" = POST "/platform-svc/backup" () -> Download,
        access: Access::needs(&BACKUP_CREATE), audited: true, errors: &[&BACKUP_RUNNING, &error::platform::STORAGE_FULL];

    /// Metrics of operations, the gateway, the store and the process, in the Prometheus text format 0.0.4.
    ///
    /// A service behind the gateway has series of its own from its first request until its account is deleted. Beyond a
    /// thousand services they share those of the service `(other)`; slugs that are no service's share `(unknown)`.
    METRICS "metrics" = GET "/metrics" () -> Samples, access: Access::needs(&METRICS_VIEW);
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Welcome {
    pub name: String,
    pub version: String,
    pub docs: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Health {
    pub status: String,
}
