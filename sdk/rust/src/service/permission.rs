//! Permissions that a service declares: saved under its slug and assigned to roles before the service receives requests.

use openorch_api::{
    Body,
    user::{
        ASSIGN_PERMISSIONS, AssignPermissionsRequest, PermissionInput, PermissionLink, SAVE_PERMISSIONS,
        SavePermissionsRequest,
    },
};

use crate::{Client, Error};

/// A declared permission and the roles that it is assigned to.
#[derive(Clone, Debug)]
pub(super) struct DeclaredPermission {
    pub id: String,
    pub description: String,
    pub roles: Vec<String>,
}

/// The full id: `order:view` is short for `<slug>:order:view`; a name with two colons is a full id.
pub(super) fn qualified_id(slug: &str, name: &str) -> String {
    match name.matches(':').count() {
        0 | 1 => format!("{slug}:{name}"),
        _ => name.to_owned(),
    }
}

/// Why the service cannot declare this permission; `None` if it can.
pub(super) fn id_error(slug: &str, id: &str) -> Option<String> {
    let name = id.strip_prefix(slug).and_then(|rest| rest.strip_prefix(':'));
    match name {
        Some(name) if !name.is_empty() => None,
        _ => Some(format!("this service cannot declare the permission `{id}`: the id must start with `{slug}:`")),
    }
}

/// Saves the permissions and assigns them to their roles. Existing assignments are kept.
pub(super) async fn declare(client: &Client, permissions: &[DeclaredPermission]) -> Result<(), Error> {
    if permissions.is_empty() {
        return Ok(());
    }
    let input = |declared: &DeclaredPermission| PermissionInput {
        id: declared.id.clone(),
        description: declared.description.clone(),
        ..PermissionInput::default()
    };
    let permissions_of_body = permissions.iter().map(input).collect();
    client.call(SAVE_PERMISSIONS, Body(SavePermissionsRequest { permissions: permissions_of_body })).await?;
    let links = permissions.iter().flat_map(|declared| {
        let link = |role: &String| PermissionLink { role_id: role.clone(), permission_id: declared.id.clone() };
        declared.roles.iter().map(link)
    });
    let permission_links: Vec<_> = links.collect();
    if !permission_links.is_empty() {
        client.call(ASSIGN_PERMISSIONS, Body(AssignPermissionsRequest { permission_links })).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_under_the_own_slug() {
        for (name, id, is_own) in [
            ("order:view", "shop-svc:order:view", true),
            ("order", "shop-svc:order", true),
            ("shop-svc:order:view", "shop-svc:order:view", true),
            ("user-svc:user:view", "user-svc:user:view", false),
            ("", "shop-svc:", false),
        ] {
            assert_eq!(qualified_id("shop-svc", name), id);
            assert_eq!(id_error("shop-svc", id).is_none(), is_own, "{id}");
        }
    }
}
