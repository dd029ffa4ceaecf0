//! Persistent maps for the access rules: a copy shares unchanged parts with the original, so a change costs only what
//! it touches, regardless of the total size.

use std::{
    ops::Bound::{Included, Unbounded},
    sync::Arc,
};

use rpds::{HashTrieMapSync, HashTrieSetSync, RedBlackTreeSetSync};

use crate::user::{authz::rows::GrantRow, shared::rows::ALL_APPS};

pub type Map<V> = HashTrieMapSync<Arc<str>, V>;
pub type Ids = HashTrieSetSync<Arc<str>>;

/// The value of a key, inserting the default if it is missing.
pub fn get_or_insert<'a, V: Clone + Default>(map: &'a mut Map<V>, key: &Arc<str>) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert_mut(key.clone(), V::default());
    }
    map.get_mut(key).expect("it exists or was just inserted")
}

/// An index of id pairs, searchable by the first id.
#[derive(Clone, Default)]
pub struct PairIndex(RedBlackTreeSetSync<(Arc<str>, Arc<str>)>);

impl PairIndex {
    pub fn insert(&mut self, first: &Arc<str>, second: &Arc<str>) {
        self.0.insert_mut((first.clone(), second.clone()));
    }

    pub fn remove(&mut self, first: &Arc<str>, second: &Arc<str>) {
        self.0.remove_mut(&(first.clone(), second.clone()));
    }

    /// The second ids of pairs with this first id, sorted.
    pub fn get<'a>(&'a self, first: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        self.with_prefix(first).take_while(move |(found, _)| **found == *first).map(|(_, second)| second)
    }

    /// The pairs whose first id starts with this prefix.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a (Arc<str>, Arc<str>)> {
        let from = (Included((Arc::from(prefix), Arc::from(""))), Unbounded);
        self.0.range::<(Arc<str>, Arc<str>), _>(from).take_while(move |(found, _)| found.starts_with(prefix))
    }
}

/// The slugs and roles that have a permission by grants, by app.
#[derive(Clone, Default)]
pub struct GrantIndex(Map<AppGrants>);

/// Each name with the number of grants that contain it.
#[derive(Clone, Default)]
struct AppGrants {
    slugs: Map<u32>,
    roles: Map<u32>,
}

impl GrantIndex {
    /// Whether an account with this slug and these roles has the permission in this app.
    pub fn has(&self, app: &str, slug: &str, roles: &[Box<str>]) -> bool {
        [app, ALL_APPS].into_iter().filter_map(|app| self.0.get(app)).any(|granted| {
            granted.slugs.contains_key(slug) || roles.iter().any(|role| granted.roles.contains_key(&**role))
        })
    }

    pub fn add(&mut self, row: &GrantRow) {
        let granted = get_or_insert(&mut self.0, &Arc::from(row.app.as_str()));
        for (counts, names) in [(&mut granted.slugs, &row.slugs), (&mut granted.roles, &row.role_ids)] {
            names.iter().for_each(|name| *get_or_insert(counts, &Arc::from(name.as_str())) += 1);
        }
    }

    pub fn remove(&mut self, row: &GrantRow) {
        let Some(granted) = self.0.get_mut(row.app.as_str()) else { return };
        for (counts, names) in [(&mut granted.slugs, &row.slugs), (&mut granted.roles, &row.role_ids)] {
            for name in names {
                match counts.get_mut(name.as_str()) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => _ = counts.remove_mut(name.as_str()),
                }
            }
        }
        if granted.slugs.is_empty() && granted.roles.is_empty() {
            self.0.remove_mut(row.app.as_str());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_by_their_first_id_and_by_how_it_begins() {
        let mut pairs = PairIndex::default();
        let id = |text: &str| Arc::<str>::from(text);
        for (first, second) in [("a:x", "2"), ("a:x", "1"), ("a:xy", "3"), ("a", "4"), ("b", "5")] {
            pairs.insert(&id(first), &id(second));
        }
        let copy = pairs.clone();
        pairs.remove(&id("a:x"), &id("1"));
        pairs.remove(&id("a:x"), &id("9"));
        let of = |pairs: &PairIndex, first: &str| pairs.get(first).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!((of(&pairs, "a:x"), of(&copy, "a:x")), (vec!["2".into()], vec!["1".into(), "2".into()]));
        assert_eq!(pairs.with_prefix("a:").map(|(_, second)| &**second).collect::<Vec<_>>(), ["2", "3"]);
        assert!(of(&pairs, "c").is_empty() && of(&pairs, "").is_empty());
    }
}
