//! The target of an audit entry: the path parameters and the fields of the body that the operation declares. Its length is
//! bounded, and it counts what was left out. Built-in roles and permissions come first, so that a long list cannot hide them.

use std::collections::HashSet;

use openorch_api::{Operation, RequestParts, SERVICES, text::without_hidden};
use serde_json::Value;

/// Longer than any path parameter, so that each can be searched for, and within the limit of an index key.
const MAX_BYTES: usize = 1024;

/// The names of a target, as one text and as a list.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Target {
    pub text: String,
    pub names: Vec<String>,
    /// The names for which the text had no room, of those to whom the call gives rights over the platform.
    pub further: Vec<String>,
    /// Whether it gives such rights.
    pub gives_rights: bool,
}

/// Names that belong together.
#[derive(Default)]
struct Group<'a> {
    names: Vec<&'a str>,
    /// They are given rights over the platform, or rights are taken from them.
    gives_rights: bool,
}

impl<'a> From<&'a str> for Group<'a> {
    fn from(name: &'a str) -> Group<'a> {
        Group { names: vec![name], gives_rights: false }
    }
}

impl Target {
    pub fn of_path<'a>(path: impl IntoIterator<Item = &'a str>) -> Target {
        Target::of(path.into_iter().map(Group::from).collect())
    }

    pub fn of_call(row: &Operation, parts: &RequestParts) -> Target {
        let mut groups: Vec<Group<'_>> = parts.path.iter().map(|name| name.as_str().into()).collect();
        if let Some(body) = &parts.body {
            let mut named = group_names(row.audit_targets, body);
            // A delegation names only what it gives, and to whom.
            let gives_all = row.access.is_privileged() && !row.audit_targets.iter().any(|pointer| says_right(pointer));
            named.iter_mut().for_each(|group| group.gives_rights |= gives_all);
            // Groups with built-in roles or permissions come first, with the accounts that receive them.
            named.sort_by_key(|group| (!group.gives_rights, !group.names.iter().any(|name| is_built_in(name))));
            groups.append(&mut named);
        }
        Target::of(groups)
    }

    fn of(groups: Vec<Group<'_>>) -> Target {
        let mut target = Target::default();
        let (mut seen, mut left_out) = (HashSet::new(), 0_usize);
        for Group { names, gives_rights } in groups {
            target.gives_rights |= gives_rights;
            for name in names.into_iter().filter(|name| !name.is_empty()) {
                if !seen.insert(name) || target.add(name) {
                    continue;
                }
                left_out += 1;
                if gives_rights {
                    target.further.push(indexed(name));
                }
            }
        }
        if left_out > 0 {
            target.text += &format!(" … and {left_out} more");
        }
        target
    }

    /// Cuts the names of an entry to those that its text shows.
    pub fn cut(names: &mut Vec<String>) {
        let mut length = 0;
        let shown = names.iter().take_while(|name| {
            length += quoted(name).len() + 1;
            length <= MAX_BYTES + 1
        });
        let count = shown.count().max(1);
        names.truncate(count);
    }

    /// Adds a name and returns whether there was room. The first name is truncated if it is too long.
    fn add(&mut self, name: &str) -> bool {
        let name = indexed(name);
        let shown = quoted(&name);
        if !self.names.is_empty() && self.text.len() + 1 + shown.len() > MAX_BYTES {
            return false;
        }
        if !self.names.is_empty() {
            self.text.push(' ');
        }
        self.text += &shown;
        self.names.push(name);
        true
    }
}

/// A name as it is searched for.
fn indexed(name: &str) -> String {
    let cut = (0..=name.len().min(MAX_BYTES)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    without_hidden(&name[..cut])
}

/// Quotes a name with a space, which would look like two names.
fn quoted(name: &str) -> String {
    match name.contains([' ', '"']) {
        true => Value::from(name).to_string(),
        false => name.to_owned(),
    }
}

/// The strings at these pointers, grouped by list element.
fn group_names<'a>(pointers: &[&str], body: &'a Value) -> Vec<Group<'a>> {
    let mut groups = Vec::new();
    let mut lists: Vec<(&str, Vec<&str>)> = Vec::new();
    for pointer in pointers {
        match pointer.split_once("/*") {
            None => groups.extend(body.pointer(pointer).and_then(Value::as_str).map(Group::from)),
            Some((list, rest)) => match lists.iter_mut().find(|(known, _)| *known == list) {
                Some((_, rests)) => rests.push(rest),
                None => lists.push((list, vec![rest])),
            },
        }
    }
    for (list, rests) in lists {
        for element in body.pointer(list).and_then(Value::as_array).into_iter().flatten() {
            let mut group = Group::default();
            for rest in &rests {
                let known = group.names.len();
                collect(element, rest, &mut group.names);
                let said = if rest.is_empty() { list } else { *rest };
                group.gives_rights |= says_right(said) && group.names[known..].iter().any(|name| is_right(name));
            }
            groups.push(group);
        }
    }
    groups
}

/// The strings at a JSON pointer (RFC 6901) in which `*` stands for each element of a list.
fn collect<'a>(value: &'a Value, pointer: &str, found: &mut Vec<&'a str>) {
    let Some((before, after)) = pointer.split_once("/*") else {
        found.extend(value.pointer(pointer).and_then(Value::as_str));
        return;
    };
    for element in value.pointer(before).and_then(Value::as_array).into_iter().flatten() {
        collect(element, after, found);
    }
}

/// Whether a pointer names what is given, not to whom.
fn says_right(pointer: &str) -> bool {
    let pointer = pointer.strip_suffix("/*").unwrap_or(pointer);
    ["/permission", "/permissionId", "/permissionIds", "/role", "/roleIds"].iter().any(|end| pointer.ends_with(end))
}

/// Whether this is a right over the platform: a built-in role or permission, other than the roles of organizations.
fn is_right(name: &str) -> bool {
    is_built_in(name) && !name.contains('{')
}

/// Whether this is a built-in role or permission.
fn is_built_in(name: &str) -> bool {
    name.split_once(':').is_some_and(|(slug, _)| SERVICES.iter().any(|service| service.slug == slug))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static ROW: Operation = Operation {
        audit_targets: &["/slug", "/enrolls/*/userId", "/enrolls/*/contactId", "/enrolls/*/role", "/ids/*"],
        ..openorch_api::op::DEFAULT
    };

    fn target(body: Value) -> Target {
        Target::of_call(&ROW, &RequestParts { path: vec!["id".into()], query: Vec::new(), body: Some(body) })
    }

    #[test]
    fn what_gives_rights_over_the_platform_is_named_first_and_what_is_left_out_is_counted() {
        let mut enrolls: Vec<Value> =
            (0..500).map(|n| json!({ "userId": format!("usr_{n:020}"), "role": "zed:x" })).collect();
        enrolls.push(json!({ "userId": "usr_mole", "role": "user-svc:admin" }));
        let found = target(json!({ "slug": "s", "enrolls": enrolls, "ids": ["a", "a", ""] }));
        assert!(found.text.starts_with("id usr_mole user-svc:admin s usr_"), "{}", found.text);
        assert!(found.names.len() > 30 && found.text.len() < MAX_BYTES + 32);
        // The 500 accounts, the role that all have, `a`, and the four names at the start.
        let left_out = 506 - found.names.len();
        assert!(left_out > 400 && found.text.ends_with(&format!(" … and {left_out} more")), "{}", found.text);
    }

    #[test]
    fn a_name_never_looks_like_two_and_never_steers_a_terminal() {
        let found = target(json!({ "slug": "usr_1 user-svc:admin", "ids": ["a\"b", "\u{1b}[31mred"] }));
        assert_eq!(found.text.split(' ').next(), Some("id"));
        assert!(found.text.contains("\"usr_1 user-svc:admin\" \"a\\\"b\"") && !found.text.contains('\u{1b}'));
        assert_eq!(found.names[1], "usr_1 user-svc:admin");
        let long = target(json!({ "slug": "x".repeat(5000) }));
        assert_eq!(long.text, "id … and 1 more");
        assert_eq!(Target::of_path(["y".repeat(5000).as_str()]).text.len(), MAX_BYTES);
    }
}
