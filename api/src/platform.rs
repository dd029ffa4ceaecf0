//! The paths of the daemon itself: what it is, whether it is well, its documents and metrics.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Html, Json, Samples, SharedJson, ops, permissions};

pub static SERVICE: crate::Service =
    crate::Service { slug: "platform-svc", name: "OpenOrch", operations: OPERATIONS, permissions: PERMISSIONS };

permissions! {
    METRICS_VIEW "platform-svc:metrics:view" "Read the metrics of the daemon." [ADMIN], OF_ALL_APPS;
}

ops! {
    /// What this is, and where to go next.
    WELCOME "welcome" = GET "/" () -> Json<Welcome>, access: Access::Public;

    /// Whether the process runs.
    HEALTH "health" = GET "/health" () -> Json<Health>, access: Access::Public;

    /// Whether the daemon can serve: its store answers.
    READY "ready" = GET "/ready" () -> Json<Health>,
        access: Access::Public, errors: &[(503, "the store does not answer")];

    /// This document.
    OPENAPI "openapi" = GET "/openapi.json" () -> SharedJson, access: Access::Public;

    /// The operations as a page to read.
    DOCS "docs" = GET "/docs" () -> Html, access: Access::Public;

    /// Counters of operations and of the gateway, in the Prometheus text format 0.0.4.
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
