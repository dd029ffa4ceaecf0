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
}

impl Target {
    pub fn of_path<'a>(path: impl IntoIterator<Item = &'a str>) -> Target {
        Target::of(path.into_iter().map(|name| vec![name]).collect())
    }

    pub fn of_call(row: &Operation, parts: &RequestParts) -> Target {
        let mut groups: Vec<Vec<&str>> = parts.path.iter().map(|name| vec![name.as_str()]).collect();
        if let Some(body) = &parts.body {
            let mut named = group_names(row.audit_targets, body);
            // Groups with built-in roles or permissions come first, with the accounts that receive them.
            named.sort_by_key(|group| !group.iter().any(|name| is_built_in(name)));
            groups.append(&mut named);
        }
        Target::of(groups)
    }

    fn of(groups: Vec<Vec<&str>>) -> Target {
        let mut target = Target::default();
        let (mut seen, mut left_out) = (HashSet::new(), 0_usize);
        for name in groups.into_iter().flatten().filter(|name| !name.is_empty()) {
            if seen.insert(name) && !target.add(name) {
                left_out += 1;
            }
        }
        if left_out > 0 {
            target.text += &format!(" … and {left_out} more");
        }
        target
    }

    /// Adds a name and returns whether there was room. The first name is truncated if it is too long.
    fn add(&mut self, name: &str) -> bool {
        let cut = (0..=name.len().min(MAX_BYTES)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
        let name = without_hidden(&name[..cut]);
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

/// Quotes a name with a space, which would look like two names.
fn quoted(name: &str) -> String {
    match name.contains([' ', '"']) {
        true => Value::from(name).to_string(),
        false => name.to_owned(),
    }
}

/// The strings at these pointers, grouped by list element.
fn group_names<'a>(pointers: &[&str], body: &'a Value) -> Vec<Vec<&'a str>> {
    let mut groups = Vec::new();
    let mut lists: Vec<(&str, Vec<&str>)> = Vec::new();
    for pointer in pointers {
        match pointer.split_once("/*") {
            None => groups.push(body.pointer(pointer).and_then(Value::as_str).into_iter().collect()),
            Some((list, rest)) => match lists.iter_mut().find(|(known, _)| *known == list) {
                Some((_, rests)) => rests.push(rest),
                None => lists.push((list, vec![rest])),
            },
        }
    }
    for (list, rests) in lists {
        for element in body.pointer(list).and_then(Value::as_array).into_iter().flatten() {
            let mut group = Vec::new();
            rests.iter().for_each(|rest| collect(element, rest, &mut group));
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
