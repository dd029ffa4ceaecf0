//! The groups: for each kind of thing its words, its columns and the operations that list, get, save and remove it. A
//! service that is added gets its commands by rows here. Headers are those of the documents, where they give some.

use openorch_sdk::api::{
    registry::{
        DELETE_DEFINITION, DELETE_NODE, LIST_DEFINITIONS, LIST_INSTANCES, LIST_NODES, REMOVE_INSTANCE, SAVE_DEFINITION,
        SELF_NODE,
    },
    user::{CREATE_INVITATION, LIST_INVITATIONS, REVOKE_INVITATION},
};

use super::{List, Resource, Save, Verb};
use crate::print::{
    Cell::{Ago, Percent, Star, Status, Text, Until},
    Column, Kind,
};

pub static RESOURCES: &[Resource] = &[
    Resource {
        noun: "instance",
        aliases: &["i", "instances"],
        about: "Running copies of services",
        kind: Kind {
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
        list: Some(List { row: LIST_INSTANCES.row, items: "instances" }),
        remove: Some(REMOVE_INSTANCE.row),
        ..Resource::NONE
    },
    Resource {
        noun: "node",
        aliases: &["n", "nodes"],
        about: "Machines that run the platform",
        kind: Kind {
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
        list: Some(List { row: LIST_NODES.row, items: "nodes" }),
        remove: Some(DELETE_NODE.row),
        more: &[Verb { name: "self", row: SELF_NODE.row, item: "node" }],
        ..Resource::NONE
    },
    Resource {
        noun: "definition",
        aliases: &["def", "definitions"],
        about: "What services are made of: images, repositories, their APIs",
        kind: Kind {
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
        list: Some(List { row: LIST_DEFINITIONS.row, items: "definitions" }),
        save: Some(Save { row: SAVE_DEFINITION.row, wrapper: "definition" }),
        remove: Some(DELETE_DEFINITION.row),
        ..Resource::NONE
    },
    Resource {
        noun: "invitation",
        aliases: &["invitations"],
        about: "Codes with which accounts can be registered",
        kind: Kind {
            columns: &[
                Column::new("INVITATION ID", Text(&["id"])),
                Column::new("USES LEFT", Text(&["usesLeft"])),
                Column::new("ENDS IN", Until("expiresAt")),
                Column::new("ROLES", Text(&["roleIds"])),
                Column::new("CREATED BY", Text(&["createdBy"])),
            ],
            name: "id",
        },
        list: Some(List { row: LIST_INVITATIONS.row, items: "invitations" }),
        remove: Some(REVOKE_INVITATION.row),
        more: &[Verb { name: "create", row: CREATE_INVITATION.row, item: "invitation" }],
        ..Resource::NONE
    },
];

#[cfg(test)]
mod tests {
    use openorch_sdk::api;

    use super::*;

    /// Operations that list, save or remove, and have no group for a reason.
    const WITHOUT_GROUP: [&str; 2] = [
        // `oo logout`.
        "revokeTokens",
        // The own profile is no list of things.
        "saveSelf",
    ];

    #[test]
    fn what_can_be_listed_saved_or_removed_has_its_group() {
        let rows: Vec<_> = RESOURCES
            .iter()
            .flat_map(|resource| {
                let more = resource.more.iter().chain(&resource.get).map(|verb| verb.row);
                let list = resource.list.as_ref().map(|list| list.row);
                list.into_iter().chain(resource.save.as_ref().map(|save| save.row)).chain(resource.remove).chain(more)
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
            if let Some(save) = &resource.save {
                let kind = crate::input::Inputs::of(save.row).body_kind(save.wrapper).map(str::to_owned);
                assert!(matches!(kind.as_deref(), Some("object" | "array")), "{}: {kind:?}", resource.noun);
            }
        }
    }
}
