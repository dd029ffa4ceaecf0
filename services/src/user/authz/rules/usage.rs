//! Quotas for the access rules. Roles, permissions, links and grants are all held in memory, so the amount per account
//! and in total is limited for accounts other than admins.

use std::mem::size_of;

use openorch_api::user::errors;
use openorch_chassis::{Caller, Error, Result};
use rpds::HashTrieMapSync;
use sha2::{Digest as _, Sha256};

use crate::user::{
    authz::rows::{GrantRow, PermissionRow, RoleRow},
    shared::settings::UserSettings,
};

const MAX_ROLES: usize = 1000;
const MAX_PERMISSIONS: usize = 10_000;
const MAX_LINKS: usize = 10_000;
const MAX_GRANTS: usize = 1000;
/// Estimated cost of a row beside its strings: the row, its map entries and allocator overhead.
const ROW_BYTES: usize = 384;
/// A link is indexed by role and by permission.
const LINK_BYTES: usize = 176;
/// A name in a grant is stored in the row, the index for checks, and the index of grants by name.
const NAME_BYTES: usize = 240;

/// Divisor: an account owns little if it uses at most this fraction of its limit.
const SMALL_PART: usize = 64;

/// Limits for accounts other than admins.
#[derive(Clone, Copy, Debug)]
pub struct AccessLimits {
    /// Total slugs and roles in an account's grants and permits.
    pub grant_names: usize,
    /// Estimated bytes of memory for the roles, permissions, links and grants of one account.
    pub account_bytes: usize,
    /// The same for all accounts together.
    pub total_bytes: usize,
    /// Roles that an account has assigned to others, including pending ones.
    pub role_assignments: u64,
}

impl AccessLimits {
    pub fn from_settings(settings: &UserSettings) -> AccessLimits {
        AccessLimits {
            grant_names: settings.max_grant_names_per_account,
            account_bytes: *settings.max_access_rule_memory_per_account,
            total_bytes: *settings.max_access_rule_memory,
            role_assignments: settings.max_role_assignments_per_account,
        }
    }
}

/// A digest of a grant without its id.
pub type GrantDigest = [u8; 32];

/// The access rules that one account owns.
#[derive(Clone, Default)]
pub struct Usage {
    roles: usize,
    permissions: usize,
    /// Links of its permissions to roles of any owner.
    links: usize,
    grants: usize,
    grant_names: usize,
    /// Estimated.
    bytes: usize,
    /// The number of its grants with the same content.
    contents: HashTrieMapSync<GrantDigest, u32>,
}

impl Usage {
    pub fn has_grant(&self, content: &GrantDigest) -> bool {
        self.contents.contains_key(content)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.roles + self.permissions + self.links + self.grants == 0
    }

    pub fn add_role(&mut self, row: &RoleRow) {
        self.roles += 1;
        self.bytes += role_bytes(row);
    }

    pub fn remove_role(&mut self, row: &RoleRow) {
        self.roles -= 1;
        self.bytes -= role_bytes(row);
    }

    pub fn add_permission(&mut self, row: &PermissionRow) {
        self.permissions += 1;
        self.bytes += permission_bytes(row);
    }

    pub fn remove_permission(&mut self, row: &PermissionRow) {
        self.permissions -= 1;
        self.bytes -= permission_bytes(row);
    }

    pub fn add_link(&mut self) {
        self.links += 1;
        self.bytes += LINK_BYTES;
    }

    pub fn remove_link(&mut self) {
        self.links = self.links.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(LINK_BYTES);
    }

    pub fn add_grant(&mut self, row: &GrantRow) {
        self.count_grant(row);
        let content = grant_digest(row);
        let count = self.contents.get(&content).map_or(1, |count| count + 1);
        self.contents.insert_mut(content, count);
    }

    fn count_grant(&mut self, row: &GrantRow) {
        self.grants += 1;
        self.grant_names += name_count(row);
        self.bytes += grant_bytes(row);
    }

    pub fn remove_grant(&mut self, row: &GrantRow) {
        self.grants -= 1;
        self.grant_names -= name_count(row);
        self.bytes -= grant_bytes(row);
        let content = grant_digest(row);
        let left = self.contents.get(&content).map_or(0, |count| count - 1);
        match left {
            0 => _ = self.contents.remove_mut(&content),
            left => self.contents.insert_mut(content, left),
        }
    }

    /// Refuses a change that increases the usage of an account above a limit.
    pub fn check_quota(&self, before: &Usage, limits: &AccessLimits) -> Result<()> {
        for (what, had, has, most, remedy) in [
            ("roles", before.roles, self.roles, MAX_ROLES, "delete some"),
            ("permissions", before.permissions, self.permissions, MAX_PERMISSIONS, "delete some"),
            ("links of its permissions to roles", before.links, self.links, MAX_LINKS, "remove some from roles"),
            ("permits", before.grants, self.grants, MAX_GRANTS, "delete some"),
            (
                "slugs and roles named in its permits",
                before.grant_names,
                self.grant_names,
                limits.grant_names,
                "name a role instead of many slugs, or have an operator raise OPENORCH_USER_MAX_GRANT_NAMES_PER_ACCOUNT",
            ),
            (
                "bytes of roles, permissions and permits",
                before.bytes,
                self.bytes,
                limits.account_bytes,
                "delete some, or have an operator raise OPENORCH_USER_MAX_ACCESS_RULE_MEMORY_PER_ACCOUNT",
            ),
        ] {
            if has > most && has > had {
                return Err(Error::new(
                    &errors::QUOTA_REACHED,
                    format!("an account may have {most} {what}, and this would be {has}: {remedy}"),
                ));
            }
        }
        Ok(())
    }
}

/// Refuses new grants that would exceed a limit of an account even if it owned nothing else.
pub fn check_new_grants<'a>(fresh: impl Iterator<Item = &'a GrantRow>, limits: &AccessLimits) -> Result<()> {
    let mut usage = Usage::default();
    fresh.for_each(|row| usage.count_grant(row));
    usage.check_quota(&Usage::default(), limits)
}

/// Refuses a change that increases the total above the limit. The last quarter is for accounts that own little, so that
/// a few accounts at their own limit do not use up the total. `own`: what the account owns after the change.
pub fn check_total(had: usize, has: usize, own: usize, limits: &AccessLimits) -> Result<()> {
    let is_small = own <= limits.account_bytes / SMALL_PART;
    let most = if is_small { limits.total_bytes } else { limits.total_bytes / 4 * 3 };
    if has > most && has > had {
        return Err(Error::new(
            &errors::RULE_MEMORY_FULL,
            format!(
                "the roles, permissions and permits of all accounts have reached the limit of {most} bytes of memory for \
                 accounts that own as much as this one: have an admin delete some, or an operator raise \
                 OPENORCH_USER_MAX_ACCESS_RULE_MEMORY"
            ),
        ));
    }
    Ok(())
}

/// Whether quotas apply to this caller. Admins are exempt, since they must be able to clean up.
pub fn is_limited(caller: &Caller) -> bool {
    !caller.is_admin()
}

/// The digest of a grant's content. Its names are sorted.
pub fn grant_digest(row: &GrantRow) -> GrantDigest {
    let mut digest = Sha256::new();
    let mut text = |text: &str| {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    };
    text(&row.app);
    text(&row.permission_id);
    for names in [&row.slugs, &row.role_ids] {
        text(&names.len().to_string());
        names.iter().for_each(|name| text(name));
    }
    digest.finalize().into()
}

/// The number of slugs and roles that a grant names.
pub fn name_count(row: &GrantRow) -> usize {
    row.slugs.len() + row.role_ids.len()
}

fn role_bytes(row: &RoleRow) -> usize {
    ROW_BYTES + size_of::<RoleRow>() + 3 * row.id.len() + row.name.len() + row.description.len()
}

fn permission_bytes(row: &PermissionRow) -> usize {
    ROW_BYTES + size_of::<PermissionRow>() + 2 * row.id.len() + row.name.len() + row.description.len()
}

fn grant_bytes(row: &GrantRow) -> usize {
    let names = row.slugs.iter().chain(&row.role_ids).map(|name| 2 * name.len() + NAME_BYTES);
    2 * ROW_BYTES + size_of::<GrantRow>() + 3 * row.id.len() + row.permission_id.len() + names.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use openorch_api::Time;

    use super::*;

    fn grant(slugs: &[&str], role_ids: &[&str]) -> GrantRow {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        GrantRow {
            id: "g".into(),
            permission_id: "p".into(),
            slugs: owned(slugs),
            role_ids: owned(role_ids),
            app: "unnamed".into(),
            owner_id: "usr_1".into(),
            created_at: Time::default(),
            updated_at: Time::default(),
        }
    }

    #[test]
    fn different_grants_have_different_digests() {
        let grants = [
            grant(&["a", "b"], &[]),
            grant(&["a"], &["b"]),
            grant(&[], &["a", "b"]),
            grant(&["ab"], &[]),
            grant(&["a", "1", "b"], &[]),
        ];
        let contents: std::collections::HashSet<_> = grants.iter().map(grant_digest).collect();
        assert_eq!(contents.len(), grants.len());
    }

    #[test]
    fn adding_and_removing_leaves_no_usage() {
        let mut usage = Usage::default();
        let (one, other) = (grant(&["a"], &[]), grant(&["a"], &["x:y"]));
        for row in [&one, &one, &other] {
            usage.add_grant(row);
        }
        usage.remove_grant(&one);
        assert!(usage.has_grant(&grant_digest(&one)), "another has the same content");
        usage.remove_grant(&one);
        usage.remove_grant(&other);
        assert!(usage.is_empty() && usage.bytes() == 0 && usage.grant_names == 0 && usage.contents.is_empty());
    }
}
