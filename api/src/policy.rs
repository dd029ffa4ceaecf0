//! The contract of policy-svc: rate limits and blocked addresses, and the check whether a request is allowed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Access, Body, Json, Path, Time, errors, form, input, op::Idempotency, ops, path_values, permissions, user::Empty,
};

/// The contract of policy-svc.
pub static SERVICE: crate::Service = crate::Service {
    slug: "policy-svc",
    name: "Policy Svc",
    operations: OPERATIONS,
    permissions: PERMISSIONS,
    errors: ERRORS,
};

errors! {
    NO_SUCH_POLICY 404 "policy.no_such_policy" "the app has no policy with this id"
        "GET /policy-svc/instances lists the existing policies";
    TOO_MANY_POLICIES 409 "policy.too_many_policies" "the app has the maximum number of policies"
        "delete some, or have an operator raise OPENORCH_POLICY_MAX_POLICIES_PER_APP";
    TOO_MANY_NETWORKS 409 "policy.too_many_networks" "the policies of the app together block the maximum number of addresses and networks"
        "merge adjacent networks, or delete policies";
}

permissions! {
    TEMPLATE_VIEW "policy-svc:template:view" "See policy templates." [ADMIN];
    TEMPLATE_CREATE "policy-svc:template:create" "Create policy templates." [ADMIN];
    TEMPLATE_EDIT "policy-svc:template:edit" "Edit policy templates." [ADMIN];
    TEMPLATE_DELETE "policy-svc:template:delete" "Delete policy templates." [ADMIN];
    INSTANCE_VIEW "policy-svc:instance:view" "See policies." [ADMIN];
    INSTANCE_CREATE "policy-svc:instance:create" "Create policies." [ADMIN];
    INSTANCE_EDIT "policy-svc:instance:edit" "Create and change policies." [ADMIN];
    INSTANCE_DELETE "policy-svc:instance:delete" "Delete policies." [ADMIN];
    CHECK_VIEW "policy-svc:check:view" "Check whether a request is allowed." [USER];
}

path_values! {
    /// The id of a policy, chosen by the client that creates it.
    PolicyId at most 128;
}

ops! {
    /// Check whether a request is allowed by every policy that applies to it, and count it.
    ///
    /// Each calling account has its own counters, so that one service does not use up the rate limit of another.
    CHECK "check" = POST "/policy-svc/check"
        (Body<CheckRequest>) -> Json<CheckResponse>,
        access: Access::SignedIn, repeat: Some(Idempotency::Never);

    /// Create or replace a policy of the caller's app.
    UPSERT_INSTANCE "upsertInstance" = PUT "/policy-svc/instance/{instanceId}"
        ((Path<PolicyId>, Body<UpsertInstanceRequest>)) -> Json<Empty>,
        access: Access::needs(&INSTANCE_EDIT), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/instance/endpoint"],
        normalize_body: Some(accept_capital),
        errors: &[&TOO_MANY_POLICIES, &TOO_MANY_NETWORKS];

    /// List the policies of the caller's app, oldest first.
    LIST_INSTANCES "listPolicyInstances" = GET "/policy-svc/instances"
        () -> Json<ListInstancesResponse>,
        long_response: true, access: Access::needs(&INSTANCE_VIEW);

    /// Delete a policy of the caller's app.
    DELETE_INSTANCE "deletePolicyInstance" = DELETE "/policy-svc/instance/{instanceId}"
        (Path<PolicyId>) -> Json<Empty>,
        access: Access::needs(&INSTANCE_DELETE), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_POLICY];
}

fn accept_capital(body: &mut Value) {
    input::rename_key(body, "Instance", "instance");
}

/// A request that the caller, a service, has received.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckRequest {
    /// The requested path.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub endpoint: String,
    /// The HTTP method; ignored by all policies.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<64>")]
    pub method: String,
    /// The client address of the request.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<64>")]
    pub ip: String,
    /// The account that makes the request.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub user_id: String,
}

/// Closed type: the published Go client rejects unknown keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckResponse {
    /// Whether no policy forbids the request. A service should refuse it if this is `false`.
    pub allowed: bool,
}

/// The policy to create, or to replace the one with the id in the path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpsertInstanceRequest {
    /// Published clients may write the key with a capital letter.
    #[serde(alias = "Instance")]
    pub instance: PolicyInstance,
}

/// The policies of the caller's app, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListInstancesResponse {
    /// The policies; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<PolicyInstance>,
}

/// A policy: a template, its parameters, and the endpoint that it applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyInstance {
    /// The id from the path; an id in the body is ignored.
    #[schemars(schema_with = "form::text::<128>")]
    pub id: String,
    /// The endpoint that it applies to, or a prefix that ends with `*`; empty for all requests.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub endpoint: String,
    /// `rate-limit` or `blocklist`.
    #[schemars(extend("enum" = ["rate-limit", "blocklist"]))]
    pub template_id: String,
    /// The parameters of the template; those that it does not use are ignored.
    pub parameters: PolicyParameters,
    /// Set by the daemon.
    pub created_at: Time,
}

/// The parameters of the template that the policy names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyParameters {
    /// Required with the template `rate-limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Required with the template `blocklist`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocklist: Option<Blocklist>,
}

/// A rate limit: the number of requests allowed per time window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RateLimit {
    /// From 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests: u32,
    /// A duration such as `30s`, `1m` or `1h30m`, from a second to 30 days.
    #[schemars(schema_with = "form::text::<64>")]
    pub time_window: String,
    /// Whose requests are counted together.
    pub entity: Entity,
    /// Whether each endpoint is counted separately.
    pub scope: Scope,
}

/// Whose requests a rate limit counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Entity {
    /// An account.
    #[default]
    #[serde(rename = "userId")]
    UserId,
    /// An address.
    #[serde(rename = "ip")]
    Ip,
}

/// Whether a rate limit counts each endpoint separately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Requests to each endpoint are counted separately.
    #[default]
    Endpoint,
    /// Requests to all endpoints are counted together.
    Global,
}

/// Addresses whose requests are not allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Blocklist {
    /// Addresses and networks such as `192.0.2.0/24`, at most 1,000.
    #[serde(rename = "blockedIPs")]
    #[schemars(schema_with = "form::networks")]
    pub blocked_ips: Vec<String>,
}
