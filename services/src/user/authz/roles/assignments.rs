//! Assigning roles to accounts in one batch: quotas, and pending roles for contacts that are not verified yet.

use std::collections::{BTreeMap, BTreeSet};

use openorch_api::user::errors;
use openorch_chassis::{Caller, Error, Result};
use openorch_store::{Batch, Filter, Guard, Query, Write};
use serde_json::Value;

use crate::user::{
    authz::{
        guards::{assigner_guards, assignment_guard, is_not_being_deleted},
        roles::{assignable::may_assign, organization::is_admin_role},
        rows::{CONTACT_ENROLLS, ContactEnrollRow, ROLE_LINKS, ROLES, RoleLinkRow},
        rules::usage::AccessLimits,
        state::Authz,
    },
    shared::{accounts::require_not_built_in, quote::quote, rows::USERS},
};

/// Maximum number of roles of one account assigned by id, and as many by contact: every request evaluates the roles.
const MAX_ROLES: u64 = 1000;
/// Maximum number of roles that one account other than an admin may assign to another account, so that it cannot use up
/// the quota.
const MAX_PER_ASSIGNER: u64 = 100;
/// Maximum number of roles assigned by all other accounts that are not admins; roles assigned by admins or by the
/// account itself always fit. The limit depends on how many of them the assigner has with the new one: since accounts
/// are free, a few of them that assign the maximum must leave room for the first roles of all others.
const MAX_BY_OTHERS: [(u64, u64); 4] = [(1, 700), (5, 650), (20, 600), (MAX_PER_ASSIGNER, 500)];

/// See [`MAX_BY_OTHERS`]. `given` is the number that the assigner has assigned so far.
fn max_by_others(given: u64) -> u64 {
    MAX_BY_OTHERS.iter().find(|(own, _)| given < *own).map_or(0, |(_, most)| *most)
}

/// Roles assigned by id and by contact have separate quotas: otherwise the quota by id would reveal the owner of a
/// contact, and one kind could use up the quota of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum QuotaKind {
    ById,
    /// A role for a contact stays pending if the quota is reached, and the response does not reveal this.
    ByContact,
}

impl QuotaKind {
    fn of(link: &RoleLinkRow) -> QuotaKind {
        if link.by_contact.is_none() { QuotaKind::ById } else { QuotaKind::ByContact }
    }

    /// Adds the condition that selects this kind.
    fn filters(self, mut filters: Vec<Filter>) -> Vec<Filter> {
        filters.push(match self {
            QuotaKind::ById => Filter::equals("byContact", Value::Null),
            QuotaKind::ByContact => Filter::range("byContact", Some("".into()), None),
        });
        filters
    }

    fn has(self, link: &RoleLinkRow) -> bool {
        QuotaKind::of(link) == self
    }
}

/// A batch that assigns roles to accounts.
#[derive(Default)]
pub struct RoleAssignments {
    pub batch: Batch,
    /// By id of the link.
    pub links: BTreeMap<String, RoleLinkRow>,
    /// The contact of each role assigned by contact.
    pub contacts: Vec<String>,
    /// Maximum number of roles assigned by others than admins to these accounts at commit time, by account and kind.
    max_by_others: BTreeMap<(String, QuotaKind), u64>,
    /// The assigner, unless it is an admin. `None` when pending roles are applied, which are already counted.
    assigner: Option<String>,
    /// The number of roles that the assigner had assigned before, to accounts and pending, and the number added by this
    /// batch.
    assigned_before: Option<(u64, u64)>,
    assigned_in_batch: u64,
}

impl RoleAssignments {
    /// Starts from a batch of other writes.
    pub fn with(batch: Batch) -> RoleAssignments {
        RoleAssignments { batch, ..RoleAssignments::default() }
    }

    fn add(&mut self, write: Write, link: RoleLinkRow, max_by_others: u64) {
        self.batch.push(write);
        if link.is_by_other() {
            let max = self.max_by_others.entry((link.user_id.clone(), QuotaKind::of(&link))).or_default();
            *max = max_by_others.max(*max);
        }
        self.links.insert(link.id(), link);
    }

    /// The accounts that get a role.
    pub fn accounts(&self) -> BTreeSet<String> {
        self.links.values().map(|link| link.user_id.clone()).collect()
    }

    /// The batch with guards that all quotas hold at commit time.
    pub fn batch(self, limits: &AccessLimits) -> Batch {
        let given: BTreeSet<_> = self.links.values().map(|link| (link.user_id.as_str(), QuotaKind::of(link))).collect();
        let all = given
            .iter()
            .map(|(id, counted)| Guard::at_most(ROLE_LINKS.name, counted.filters(assigned_to(id)), MAX_ROLES));
        let by_others = self.max_by_others.iter().map(|((id, counted), most)| {
            Guard::at_most(ROLE_LINKS.name, counted.filters(assigned_by_others(id)), *most)
        });
        let by_giver = self.assigner.iter().filter(|_| self.assigned_in_batch > 0).flat_map(|id| {
            let (links, waits) = self.max_assigned(limits.role_assignments);
            [
                Guard::at_most(ROLE_LINKS.name, assigned_by(id), links),
                Guard::at_most(CONTACT_ENROLLS.name, pending_of(id), waits),
            ]
        });
        let accounts: BTreeSet<&str> = given.iter().map(|(id, _)| *id).collect();
        let stay = accounts.into_iter().map(is_not_being_deleted);
        let guards: Vec<Guard> = all.chain(by_others).chain(by_giver).chain(stay).collect();
        guards.into_iter().fold(self.batch, Batch::require)
    }

    /// The maximum numbers of assigned and pending roles of the assigner at commit time. The limit applies to their sum
    /// while guards count each separately: up to half of the limit each has its own maximum, and beyond that neither
    /// may have grown since they were counted.
    fn max_assigned(&self, limit: u64) -> (u64, u64) {
        let added = |name: &str| {
            let is_of = |write: &&Write| matches!(write, Write::Create { collection, .. } | Write::Upsert { collection, .. } if *collection == name);
            self.batch.0.iter().filter(is_of).count() as u64
        };
        let (links, waits) = self.assigned_before.unwrap_or_default();
        let then = (links + added(ROLE_LINKS.name), waits + added(CONTACT_ENROLLS.name));
        if then.0.max(then.1) <= limit / 2 { (limit / 2, limit / 2) } else { then }
    }
}

impl Authz {
    /// Counts a role against the quota of the assigner; admins have none.
    pub async fn count_assignment(&self, giving: &mut RoleAssignments, giver: &Caller) -> Result<()> {
        if giver.is_admin() {
            return Ok(());
        }
        let before = match giving.assigned_before {
            Some(before) => before,
            None => {
                let links = self.role_links.count(&assigned_by(&giver.user_id)).await?;
                (links, self.contact_enrolls.count(&pending_of(&giver.user_id)).await?)
            }
        };
        let max = self.limits.role_assignments;
        if before.0 + before.1 + giving.assigned_in_batch >= max {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "an account may assign at most {max} roles to others, including pending ones: remove some, \
                     have an admin assign them, or have an operator raise OPENORCH_USER_MAX_ROLE_ASSIGNMENTS_PER_ACCOUNT"
                ),
            ));
        }
        giving.assigned_before = Some(before);
        giving.assigned_in_batch += 1;
        giving.assigner = Some(giver.user_id.to_string());
        Ok(())
    }

    /// The assigner of a pending role with its current rights; `None` if it may not assign the role anymore.
    pub async fn assigner_of(&self, row: &ContactEnrollRow) -> Result<Option<Caller>> {
        let giver = self.account(&row.created_by).await?.map(|account| account.caller_in(&row.app));
        Ok(giver.filter(|giver| may_assign(giver, &row.role_id, &row.app)))
    }

    /// Checks the quota of roles assigned by contact, which applies whether the contact belongs to an account or not.
    pub async fn check_contact_quota(&self, giving: &RoleAssignments, row: &ContactEnrollRow) -> Result<()> {
        if row.by_admin {
            return Ok(());
        }
        let here = giving.contacts.iter().filter(|contact| **contact == row.contact).count() as u64;
        // Queried by contact, which has few. Adding the assigner to the query could select an index with far more rows.
        let of_contact = |field: &str| Query::all().equals(field, row.contact.as_str());
        let waits = self.contact_enrolls.find(&of_contact("contact")).await?;
        let given = self.role_links.find(&of_contact("byContact")).await?;
        let waits = waits.iter().map(|row| (&row.value.created_by, row.value.by_admin));
        let givers: Vec<_> = waits.chain(given.iter().map(|row| (&row.value.created_by, row.value.by_admin))).collect();
        let count =
            |fits: &dyn Fn(&(&String, bool)) -> bool| here + givers.iter().filter(|one| fits(one)).count() as u64;
        let by_giver = count(&|(giver, _)| **giver == row.created_by);
        if by_giver >= MAX_PER_ASSIGNER {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "an account may assign {MAX_PER_ASSIGNER} roles by one contact: remove some, combine several into one, or have \
                     an admin assign them"
                ),
            ));
        }
        let most = max_by_others(by_giver);
        if count(&|(_, by_admin)| !by_admin) >= most {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "accounts other than admins have assigned {most} roles by this contact, the maximum for an account that \
                     assigned {by_giver} of them; have an admin assign this one"
                ),
            ));
        }
        Ok(())
    }

    /// Adds the pending roles of a contact to the batch with which an account verifies it. `initial_roles` are the roles
    /// of an account created by the same batch.
    pub async fn apply_pending(
        &self,
        batch: Batch,
        user_id: &str,
        contact: &str,
        initial_roles: &[RoleLinkRow],
    ) -> Result<Batch> {
        let mut giving = RoleAssignments::with(batch);
        giving.links.extend(initial_roles.iter().map(|link| (link.id(), link.clone())));
        for row in self.contact_enrolls.find(&Query::all().equals("contact", contact)).await? {
            let delete = self.contact_enrolls.delete(&row.id, Some(row.version));
            let giver = match self.rules().roles.contains_key(row.value.role_id.as_str()) {
                true => self.assigner_of(&row.value).await?,
                false => None,
            };
            let Some(giver) = giver else {
                giving.batch.push(delete);
                continue;
            };
            let link = RoleLinkRow::new(&row.value.app, user_id, &row.value.role_id, self.now()).of_pending(&row.value);
            let link = RoleLinkRow { by_admin: giver.is_admin(), ..link };
            // A role that the account already has stays as assigned, since another assigner may have fewer rights.
            // Roles above the quota stay pending, as they could not be assigned directly either. The response reveals
            // neither.
            let has_it = giving.links.contains_key(&link.id()) || self.role_links.get(&link.id()).await?.is_some();
            if has_it {
                continue;
            }
            let Ok(most) = self.check_quota(&giving, &link).await? else { continue };
            giving.batch.push(delete);
            let right = assignment_guard(&giver, &link.role_id, &link.app);
            giving.batch.0.extend(assigner_guards(&giver).0.into_iter().chain(right.map(Write::Require)));
            giving.batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: link.role_id.clone() }));
            giving.add(self.role_links.upsert(link.id(), &link)?, link, most);
        }
        Ok(giving.batch(&self.limits))
    }

    /// Checks the quotas for one more role, including those in the batch. The inner result is the maximum number of
    /// roles assigned by others than admins.
    pub async fn check_quota(&self, giving: &RoleAssignments, link: &RoleLinkRow) -> Result<Result<u64>> {
        let counted = QuotaKind::of(link);
        let stored = async |filters: Vec<Filter>| self.role_links.count(&counted.filters(filters)).await;
        let here = |fits: &dyn Fn(&RoleLinkRow) -> bool| {
            let of_account = giving.links.values().filter(|other| other.user_id == link.user_id && counted.has(other));
            of_account.filter(|other| fits(other)).count() as u64
        };
        let id = link.user_id.as_str();
        if stored(assigned_to(id)).await? + here(&|_| true) >= MAX_ROLES {
            return Ok(Err(Error::new(
                &errors::TOO_MANY_ROLES,
                format!("an account may have at most {MAX_ROLES} roles"),
            )));
        }
        if !link.is_by_other() {
            return Ok(Ok(MAX_ROLES));
        }
        let by_giver = [assigned_to(id), vec![Filter::equals("createdBy", &*link.created_by)]].concat();
        let given = stored(by_giver).await? + here(&|other| other.created_by == link.created_by);
        if given >= MAX_PER_ASSIGNER {
            return Ok(Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "an account may assign {MAX_PER_ASSIGNER} roles to another: remove some, combine several into one, or \
                     have an admin assign them"
                ),
            )));
        }
        let max = max_by_others(given);
        if stored(assigned_by_others(id)).await? + here(&RoleLinkRow::is_by_other) >= max {
            return Ok(Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "accounts other than admins have assigned this account {max} roles, the maximum for an account that \
                     assigned {given} of them: the account can remove some, or an admin can assign this one"
                ),
            )));
        }
        Ok(Ok(max))
    }

    /// Adds a role assignment to the batch.
    pub async fn assign(&self, giving: &mut RoleAssignments, link: RoleLinkRow) -> Result<()> {
        let unknown = || {
            Error::new(
                &errors::NO_SUCH_ACCOUNT,
                format!("user not found: there is no account `{}`", quote(&link.user_id)),
            )
        };
        let user = self.accounts.users.get(&link.user_id).await?.ok_or_else(unknown)?;
        require_not_built_in(&user.value)?;
        let most = self.check_quota(giving, &link).await??;
        giving.batch.push(Write::Require(Guard::Exists { collection: USERS.name, id: link.user_id.clone() }));
        giving.add(self.role_links.create(link.id(), &link)?, link, most);
        Ok(())
    }

    /// Converts a role assigned by contact into one assigned by id, and makes the contact's role pending, as if the
    /// contact had not been verified. Fails in the same cases as if the account did not have the role.
    pub async fn convert_to_id(
        &self,
        giving: &mut RoleAssignments,
        link: &RoleLinkRow,
        waits: &ContactEnrollRow,
    ) -> Result<()> {
        let most = self.check_quota(giving, link).await??;
        giving.batch.push(self.contact_enrolls.upsert(waits.id(), waits)?);
        giving.add(self.role_links.upsert(link.id(), link)?, link.clone(), most);
        Ok(())
    }

    /// Adds a role assignment that replaces one removed by the same batch, which is permitted even if the quota is
    /// reached.
    pub fn assign_replacement(&self, giving: &mut RoleAssignments, link: RoleLinkRow) -> Result<()> {
        giving.batch.push(self.role_links.create(link.id(), &link)?);
        giving.links.insert(link.id(), link);
        Ok(())
    }

    /// Adds guards to a batch that removes a role: at least one account must keep a role without which no account could
    /// assign it again.
    pub async fn ensure_last_admin(&self, link: &RoleLinkRow, batch: Batch) -> Result<Batch> {
        let is_platform = link.role_id == openorch_api::role::ADMIN;
        if !is_platform && !is_admin_role(&link.role_id) {
            return Ok(batch);
        }
        let holders = vec![Filter::equals("roleId", link.role_id.as_str())];
        if self.role_links.count(&holders).await? <= 1 {
            return Err(Error::new(
                &errors::LAST_ADMIN,
                if is_platform {
                    "Cannot delete last admin user: give the role `user-svc:admin` to another account first".to_owned()
                } else {
                    format!("no other account has the role `{}`: assign it to another account first", link.role_id)
                },
            ));
        }
        Ok(batch.require(Guard::at_least(ROLE_LINKS.name, holders, 1)))
    }
}

/// Roles that an account assigned while it was not an admin.
fn assigned_by(id: &str) -> Vec<Filter> {
    vec![Filter::equals("createdBy", id), Filter::equals("byAdmin", false)]
}

/// Pending roles assigned by an account.
fn pending_of(id: &str) -> Vec<Filter> {
    vec![Filter::equals("createdBy", id)]
}

fn assigned_to(id: &str) -> Vec<Filter> {
    vec![Filter::equals("userId", id)]
}

/// Roles assigned by other accounts that are not admins; see [`RoleLinkRow::is_by_other`].
fn assigned_by_others(id: &str) -> Vec<Filter> {
    // Ids consist of letters, digits, `_` and `-`, and `!` sorts before all of them.
    let before = Filter::range("createdBy", Some("!".into()), Some(id.into()));
    let after = Filter::range("createdBy", Some(format!("{id}!").into()), None);
    vec![Filter::equals("userId", id), Filter::equals("byAdmin", false), Filter::Any(vec![before, after])]
}
