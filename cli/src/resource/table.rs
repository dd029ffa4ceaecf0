//! The command groups: the names and columns of each kind of item, and the operations that list, get, save and remove
//! it. A new service gets its commands through entries here. Headers follow the documented `oo` where it has them.

use openorch_sdk::api::{
    policy,
    registry::{
        DELETE_DEFINITION, DELETE_NODE, LIST_DEFINITIONS, LIST_INSTANCES, LIST_NODES, REMOVE_INSTANCE, SAVE_DEFINITION,
        SELF_NODE,
    },
    user::{
        ADD_USER_TO_ORGANIZATION, CREATE_INVITATION, CREATE_ROLE, CREATE_USER, DELETE_APP, DELETE_DELEGATION,
        DELETE_ENROLL, DELETE_GRANT, DELETE_ORGANIZATION, DELETE_PERMISSION, DELETE_ROLE, DELETE_USER, GET_KEY_SET,
        GET_PERMISSIONS_BY_ROLE, GET_ROLES, GET_USERS, LIST_APPS, LIST_AUDIT, LIST_DELEGATIONS, LIST_ENROLLS,
        LIST_GRANTS, LIST_INVITATIONS, LIST_MEMBERS, LIST_ORGANIZATIONS, LIST_PERMISSIONS, LIST_PERMITS, LIST_SESSIONS,
        READ_SELF, RELEASE_ORGANIZATION_ID, RELEASE_SLUG, REMOVE_CONTACT, REMOVE_USER_FROM_ORGANIZATION,
        RESET_PASSWORD, REVOKE_INVITATION, REVOKE_SESSION, ROTATE_KEY, SAVE_DELEGATION, SAVE_ENROLLS, SAVE_GRANTS,
        SAVE_MEMBERSHIP, SAVE_ORGANIZATION, SAVE_PERMISSIONS, SAVE_PERMITS, SAVE_USER, SEND_OWN_OTP,
        SET_ROLE_PERMISSIONS, UPDATE_APP, VERIFY_CONTACT,
    },
};

use super::{Answer, List, Lookup, PartialList, Resource, Save, Verb};
use crate::print::{
    Cell::{Ago, Percent, Star, Status, Text, Until},
    Column, TableLayout,
};

/// The permissions of a role.
const PERMISSIONS: TableLayout = TableLayout {
    columns: &[Column::new("PERMISSION ID", Text(&["id"])), Column::new("DESCRIPTION", Text(&["description"]))],
    name: "id",
};

/// The members of an organization.
const MEMBERS: TableLayout = TableLayout {
    columns: &[
        Column::new("USER ID", Text(&["user.id"])),
        Column::new("SLUG", Text(&["user.slug"])),
        Column::new("NAME", Text(&["user.name"])),
        Column::new("ROLE", Text(&["role"])),
    ],
    name: "user.id",
};

/// The keys that verify tokens.
const KEYS: TableLayout = TableLayout {
    columns: &[
        Column::new("KEY ID", Text(&["kid"])),
        Column::new("ALGORITHM", Text(&["alg"])),
        Column::new("TYPE", Text(&["kty"])),
    ],
    name: "kid",
};

pub static RESOURCES: &[Resource] = &[
    Resource {
        noun: "instance",
        aliases: &["i", "instances"],
        about: "Running instances of services",
        kind: TableLayout {
            columns: &[
                Column::new("INSTANCE ID", Text(&["id"])),
                Column::new("URL", Text(&["url"])),
                Column::new("STATUS", Status("status")),
                Column::new("OWNER SLUG", Text(&["slug"])),
                Column::new("LAST HEARTBEAT", Ago("lastHeartbeat")),
                Column::wide("ROUTABLE", Star("extra.routable")),
                Column::wide("DEPLOYMENT ID", Text(&["deploymentId"])),
                Column::wide("DETAILS", Text(&["details"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_INSTANCES.row, items: "instances", one: Lookup::ByKey("id") }),
        remove: Some(REMOVE_INSTANCE.row),
        ..Resource::NONE
    },
    Resource {
        noun: "node",
        aliases: &["n", "nodes"],
        about: "Machines that run the platform",
        kind: TableLayout {
            columns: &[
                Column::new("NODE ID", Text(&["id"])),
                Column::new("URL", Text(&["url"])),
                Column::new("LAST HEARTBEAT", Ago("lastHeartbeat")),
                Column::wide("REGION", Text(&["region"])),
                Column::wide("ZONE", Text(&["availabilityZone"])),
                Column::wide("CPU", Percent("usage.cpu.percent")),
                Column::wide("MEMORY", Percent("usage.memory.percent")),
                Column::wide("DISK", Percent("usage.disk.percent")),
            ],
            // A node is removed by its URL, so that is its name.
            name: "url",
        },
        list: Some(List { row: LIST_NODES.row, items: "nodes", one: Lookup::InList }),
        remove: Some(DELETE_NODE.row),
        verbs: &[Verb::new("self", SELF_NODE.row, Answer::Item("node"))],
        ..Resource::NONE
    },
    Resource {
        noun: "definition",
        aliases: &["def", "definitions"],
        about: "Service definitions: images, repositories, APIs",
        kind: TableLayout {
            columns: &[
                Column::new("ID", Text(&["id"])),
                Column::new("IMAGE NAME", Text(&["image.name"])),
                Column::new("REPO URL", Text(&["repository.url"])),
                Column::new("REPO BUILD CONTEXT", Text(&["repository.buildContext"])),
                Column::new("REPO CONTAINER FILE", Text(&["repository.containerFile"])),
                Column::new("INTERNAL PORT", Text(&["image.internalPorts", "repository.ports"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_DEFINITIONS.row, items: "definitions", one: Lookup::InList }),
        save: Some(Save::new(SAVE_DEFINITION.row, "definition")),
        remove: Some(DELETE_DEFINITION.row),
        ..Resource::NONE
    },
    Resource {
        noun: "policy",
        aliases: &["policies"],
        about: "Rate limits and blocked addresses",
        kind: TableLayout {
            columns: &[
                Column::new("POLICY ID", Text(&["id"])),
                Column::new("TEMPLATE", Text(&["templateId"])),
                Column::new("ENDPOINT", Text(&["endpoint"])),
                Column::new("MAX REQUESTS", Text(&["parameters.rateLimit.maxRequests"])),
                Column::new("TIME WINDOW", Text(&["parameters.rateLimit.timeWindow"])),
                Column::wide("BLOCKED IPS", Text(&["parameters.blocklist.blockedIPs"])),
                Column::wide("CREATED", Ago("createdAt")),
            ],
            name: "id",
        },
        list: Some(List { row: policy::LIST_INSTANCES.row, items: "instances", one: Lookup::InList }),
        save: Some(Save::new(policy::UPSERT_INSTANCE.row, "instance")),
        remove: Some(policy::DELETE_INSTANCE.row),
        ..Resource::NONE
    },
    Resource {
        noun: "user",
        aliases: &["users"],
        about: "Accounts of people and services",
        kind: TableLayout {
            columns: &[
                Column::new("USER ID", Text(&["id"])),
                Column::new("SLUG", Text(&["slug"])),
                Column::new("NAME", Text(&["name"])),
                Column::new("CREATED", Ago("createdAt")),
                Column::wide("LABELS", Text(&["labels"])),
            ],
            name: "id",
        },
        list: Some(List {
            row: GET_USERS.row,
            items: "users",
            one: Lookup::ByIdOrSlug { id: "ids", search: "search" },
        }),
        save: Some(Save { row: SAVE_USER.row, wrapper: "", create: Some((CREATE_USER.row, "user")) }),
        remove: Some(DELETE_USER.row),
        verbs: &[
            Verb { secret: Some("newPassword"), ..Verb::new("reset-password", RESET_PASSWORD.row, Answer::Nothing) },
            Verb::new("release-slug", RELEASE_SLUG.row, Answer::Nothing),
        ],
        ..Resource::NONE
    },
    Resource {
        noun: "session",
        aliases: &["sessions"],
        about: "Sessions of an account",
        kind: TableLayout {
            columns: &[
                Column::new("SESSION ID", Text(&["id"])),
                Column::new("DEVICE", Text(&["device"])),
                Column::new("CURRENT", Star("current")),
                Column::new("CREATED", Ago("createdAt")),
                Column::new("USED", Ago("usedAt")),
                Column::wide("USER ID", Text(&["userId"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_SESSIONS.row, items: "sessions", one: Lookup::InList }),
        remove: Some(REVOKE_SESSION.row),
        ..Resource::NONE
    },
    Resource {
        noun: "contact",
        aliases: &["contacts"],
        about: "Your contacts (e-mail addresses)",
        kind: TableLayout {
            columns: &[
                Column::new("CONTACT ID", Text(&["id"])),
                Column::new("PLATFORM", Text(&["platform"])),
                Column::new("VERIFIED", Star("verified")),
                Column::wide("PRIMARY", Star("isPrimary")),
                Column::wide("WRITTEN AS", Text(&["value"])),
            ],
            name: "id",
        },
        list: Some(List { row: READ_SELF.row, items: "contacts", one: Lookup::InList }),
        part: Some(PartialList { about: "List your contacts", excluded_keys: &["countTokens"] }),
        remove: Some(REMOVE_CONTACT.row),
        verbs: &[
            // The answer contains the `otpId` that `verify` takes, beside the code sent to the contact.
            Verb { arguments: &["contactId"], ..Verb::new("add", SEND_OWN_OTP.row, Answer::Item("otpId")) },
            Verb { arguments: &["otpId", "otpCode"], ..Verb::new("verify", VERIFY_CONTACT.row, Answer::Nothing) },
        ],
        ..Resource::NONE
    },
    Resource {
        noun: "key",
        aliases: &["keys"],
        about: "The keys that tokens are signed with",
        kind: KEYS,
        list: Some(List { row: GET_KEY_SET.row, items: "keys", one: Lookup::InList }),
        verbs: &[Verb::new("rotate", ROTATE_KEY.row, Answer::Items("keys", KEYS))],
        ..Resource::NONE
    },
    Resource {
        noun: "role",
        aliases: &["roles"],
        about: "Named sets of permissions",
        kind: TableLayout {
            columns: &[
                Column::new("ROLE ID", Text(&["id"])),
                Column::new("NAME", Text(&["name"])),
                Column::new("DESCRIPTION", Text(&["description"])),
                Column::wide("OWNER ID", Text(&["ownerId"])),
            ],
            name: "id",
        },
        list: Some(List { row: GET_ROLES.row, items: "roles", one: Lookup::InList }),
        save: Some(Save::new(CREATE_ROLE.row, "")),
        remove: Some(DELETE_ROLE.row),
        verbs: &[
            Verb::new("permissions", GET_PERMISSIONS_BY_ROLE.row, Answer::Items("permissions", PERMISSIONS)),
            Verb::new("set-permissions", SET_ROLE_PERMISSIONS.row, Answer::Nothing),
        ],
        ..Resource::NONE
    },
    Resource {
        noun: "permission",
        aliases: &["permissions"],
        about: "Rights that services ask for",
        // The list contains ids only.
        kind: TableLayout { columns: &[Column::new("PERMISSION ID", Text(&[""]))], name: "" },
        list: Some(List { row: LIST_PERMISSIONS.row, items: "permissions", one: Lookup::Unsupported }),
        save: Some(Save::new(SAVE_PERMISSIONS.row, "permissions")),
        remove: Some(DELETE_PERMISSION.row),
        ..Resource::NONE
    },
    Resource {
        noun: "grant",
        aliases: &["grants"],
        about: "Permissions given to accounts by slug",
        kind: TableLayout {
            columns: &[
                Column::new("GRANT ID", Text(&["id"])),
                Column::new("PERMISSION ID", Text(&["permissionId"])),
                Column::new("SLUGS", Text(&["slugs"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_GRANTS.row, items: "grants", one: Lookup::InList }),
        save: Some(Save::new(SAVE_GRANTS.row, "grants")),
        remove: Some(DELETE_GRANT.row),
        ..Resource::NONE
    },
    Resource {
        noun: "permit",
        aliases: &["permits"],
        about: "Permissions given to accounts by slug and by role",
        kind: TableLayout {
            columns: &[
                Column::new("PERMIT ID", Text(&["id"])),
                Column::new("PERMISSION", Text(&["permission"])),
                Column::new("SLUGS", Text(&["slugs"])),
                Column::new("ROLES", Text(&["roles"])),
                Column::wide("APP", Text(&["appId"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_PERMITS.row, items: "permits", one: Lookup::InList }),
        save: Some(Save::new(SAVE_PERMITS.row, "permits")),
        remove: Some(DELETE_GRANT.row),
        ..Resource::NONE
    },
    Resource {
        noun: "enroll",
        aliases: &["enrolls"],
        about: "Role assignments of accounts",
        kind: TableLayout {
            columns: &[
                Column::new("ENROLL ID", Text(&["id"])),
                Column::new("USER ID", Text(&["userId"])),
                Column::new("ROLE", Text(&["role"])),
                Column::wide("CREATED BY", Text(&["createdBy"])),
                Column::wide("APP", Text(&["appId"])),
            ],
            name: "id",
        },
        // It requires a role or an account.
        list: Some(List { row: LIST_ENROLLS.row, items: "enrolls", one: Lookup::Unsupported }),
        save: Some(Save::new(SAVE_ENROLLS.row, "enrolls")),
        remove: Some(DELETE_ENROLL.row),
        ..Resource::NONE
    },
    Resource {
        noun: "org",
        aliases: &["organization", "organizations"],
        about: "Organizations and their members",
        kind: TableLayout {
            columns: &[
                Column::new("ORGANIZATION ID", Text(&["id"])),
                Column::new("SLUG", Text(&["slug"])),
                Column::new("NAME", Text(&["name"])),
                Column::new("CREATED", Ago("createdAt")),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_ORGANIZATIONS.row, items: "organizations", one: Lookup::ByKey("ids") }),
        save: Some(Save::new(SAVE_ORGANIZATION.row, "")),
        remove: Some(DELETE_ORGANIZATION.row),
        verbs: &[
            Verb::new("members", LIST_MEMBERS.row, Answer::Items("members", MEMBERS)),
            Verb { arguments: &["userId"], ..Verb::new("add-user", ADD_USER_TO_ORGANIZATION.row, Answer::Nothing) },
            Verb::new("set-user", SAVE_MEMBERSHIP.row, Answer::Nothing),
            Verb::new("remove-user", REMOVE_USER_FROM_ORGANIZATION.row, Answer::Nothing),
            Verb::new("release-id", RELEASE_ORGANIZATION_ID.row, Answer::Nothing),
        ],
        ..Resource::NONE
    },
    Resource {
        noun: "app",
        aliases: &["apps"],
        about: "Tenants, each identified by a host",
        kind: TableLayout {
            columns: &[Column::new("APP ID", Text(&["id"])), Column::new("HOST", Text(&["host"]))],
            name: "id",
        },
        list: Some(List { row: LIST_APPS.row, items: "apps", one: Lookup::ByKey("ids") }),
        save: Some(Save::new(UPDATE_APP.row, "")),
        remove: Some(DELETE_APP.row),
        ..Resource::NONE
    },
    Resource {
        noun: "delegation",
        aliases: &["delegations"],
        about: "What services may do for their callers",
        kind: TableLayout {
            columns: &[
                Column::new("SERVICE", Text(&["slug"])),
                Column::new("OPERATIONS", Text(&["operations"])),
                Column::new("SERVICES", Text(&["services"])),
            ],
            name: "slug",
        },
        list: Some(List { row: LIST_DELEGATIONS.row, items: "delegations", one: Lookup::InList }),
        save: Some(Save::new(SAVE_DELEGATION.row, "")),
        remove: Some(DELETE_DELEGATION.row),
        ..Resource::NONE
    },
    Resource {
        noun: "audit",
        aliases: &[],
        about: "Audit log of changes and refusals",
        kind: TableLayout {
            columns: &[
                Column::new("AT", Text(&["at"])),
                Column::new("ACTOR", Text(&["actorSlug", "actorId"])),
                Column::new("OPERATION", Text(&["operation"])),
                Column::new("TARGET", Text(&["target"])),
                Column::new("STATUS", Text(&["status"])),
                Column::new("COUNT", Text(&["count"])),
                Column::wide("CLIENT", Text(&["clientIp"])),
                Column::wide("REQUEST", Text(&["requestId"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_AUDIT.row, items: "entries", one: Lookup::Unsupported }),
        ..Resource::NONE
    },
    Resource {
        noun: "invitation",
        aliases: &["invitations"],
        about: "Invitation codes for registration",
        kind: TableLayout {
            columns: &[
                Column::new("INVITATION ID", Text(&["id"])),
                Column::new("USES LEFT", Text(&["usesLeft"])),
                Column::new("ENDS IN", Until("expiresAt")),
                Column::new("ROLES", Text(&["roleIds"])),
                Column::new("CREATED BY", Text(&["createdBy"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_INVITATIONS.row, items: "invitations", one: Lookup::InList }),
        remove: Some(REVOKE_INVITATION.row),
        verbs: &[Verb::new("create", CREATE_INVITATION.row, Answer::Item("invitation"))],
        ..Resource::NONE
    },
];

#[cfg(test)]
mod tests {
    use openorch_sdk::api;

    use super::*;

    /// Operations that list, save or remove, and have no group on purpose.
    const WITHOUT_GROUP: [&str; 2] = [
        // `oo logout`.
        "revokeTokens",
        // Your own profile is not a list.
        "saveSelf",
    ];

    #[test]
    fn what_can_be_listed_saved_or_removed_has_its_group() {
        let rows: Vec<_> = RESOURCES
            .iter()
            .flat_map(|resource| {
                let more = resource.verbs.iter().chain(&resource.get).map(|verb| verb.row);
                let list = resource.list.as_ref().map(|list| list.row);
                let save =
                    resource.save.iter().flat_map(|save| [Some(save.row), save.create.map(|(new, _)| new)]).flatten();
                list.into_iter().chain(save).chain(resource.remove).chain(more)
            })
            .map(|row| row.id)
            .collect();
        for row in api::operations() {
            let has_verb = ["list", "save", "delete", "remove", "revoke"].iter().any(|verb| row.id.starts_with(verb));
            assert!(
                !has_verb || rows.contains(&row.id) || WITHOUT_GROUP.contains(&row.id),
                "`{}` has no group: add it to a row of cli/src/resource/table.rs",
                row.id
            );
        }
    }

    #[test]
    fn rows_fit_their_operations() {
        for resource in RESOURCES {
            if let Some(list) = &resource.list {
                assert_eq!(list.row.path_parameters().count(), 0, "{}", resource.noun);
            }
            if let Some(row) = resource.remove {
                assert_eq!(row.path_parameters().count(), 1, "{}", resource.noun);
            }
            if let Some((new, wrapper)) = resource.save.as_ref().and_then(|save| save.create) {
                let kind = crate::input::Inputs::of(new).body_kind(wrapper).map(str::to_owned);
                assert_eq!(kind.as_deref(), Some("object"), "{}", resource.noun);
            }
            if let Some(save) = resource.save.as_ref().filter(|save| !save.wrapper.is_empty()) {
                let kind = crate::input::Inputs::of(save.row).body_kind(save.wrapper).map(str::to_owned);
                assert!(matches!(kind.as_deref(), Some("object" | "array")), "{}: {kind:?}", resource.noun);
            }
        }
    }
}
