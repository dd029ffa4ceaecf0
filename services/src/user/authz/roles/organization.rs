//! The two roles of an organization, which alone determine its members.

pub fn admin_role(id: &str) -> String {
    format!("user-svc:org:{{{id}}}:admin")
}

pub fn user_role(id: &str) -> String {
    format!("user-svc:org:{{{id}}}:user")
}

/// The organization to which a role belongs.
pub fn organization_of(role: &str) -> Option<&str> {
    let (id, rest) = role.strip_prefix("user-svc:org:{")?.split_once('}')?;
    matches!(rest, ":admin" | ":user").then_some(id)
}

pub fn is_admin_role(role: &str) -> bool {
    organization_of(role).is_some() && role.ends_with(":admin")
}
