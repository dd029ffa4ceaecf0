//! Giving roles to accounts in one batch: what bounds that, and roles that waited for whoever shows that a contact is its
//! own.

use std::collections::{BTreeMap, BTreeSet};

use openorch_api::user::errors;
use openorch_chassis::{Caller, Error, Result};
use openorch_store::{Batch, Filter, Guard, Query, Write};
use serde_json::Value;

use crate::user::{
    authz::{
        guards::{still_gives, still_gives_role},
        roles::{givable::may_give, organization::is_admin_role},
        rows::{CONTACT_ENROLLS, ContactEnrollRow, ROLE_LINKS, ROLES, RoleLinkRow},
        rules::usage::AccessLimits,
        state::Authz,
    },
    shared::{accounts::refuse_built_in, rows::USERS, shown::shown},
};

/// Of one account, by its id, and as many by its contacts: what every request looks at stays short.
const MAX_ROLES: u64 = 1000;
/// So many of them an account that is no admin may give to one other: it can crowd nobody out of what others give.
const MAX_GIVEN: u64 = 100;
/// So many of them all others may give who are no admins: what admins give, or an account gives itself, always has room.
/// By how many of those are the giver's own with the new one: accounts are free, and a few of them that give all they may
/// leave room for the first roles of everybody else.
const MAX_BY_OTHERS: [(u64, u64); 4] = [(1, 700), (5, 650), (20, 600), (MAX_GIVEN, 500)];

/// See [`MAX_BY_OTHERS`]. `given`: how many the giver gave before.
fn most_by_others(given: u64) -> u64 {
    MAX_BY_OTHERS.iter().find(|(own, _)| given < *own).map_or(0, |(_, most)| *most)
}

/// Roles that were given to an account by its id and those that came by a contact are bounded apart: whose a contact is must
/// not show by what may be given by id, and nobody may use up one kind by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    ById,
    /// What is given for a contact waits where there is no room for it, and does not tell.
    ByContact,
}

impl Counted {
    fn of(link: &RoleLinkRow) -> Counted {
        if link.by_contact.is_none() { Counted::ById } else { Counted::ByContact }
    }

    /// With what is to be counted besides.
    fn filters(self, mut filters: Vec<Filter>) -> Vec<Filter> {
        filters.push(match self {
            Counted::ById => Filter::equals("byContact", Value::Null),
            Counted::ByContact => Filter::range("byContact", Some("".into()), None),
        });
        filters
    }

    fn has(self, link: &RoleLinkRow) -> bool {
        Counted::of(link) == self
    }
}

/// A batch that gives roles to accounts.
#[derive(Default)]
pub struct Giving {
    pub batch: Batch,
    /// By id.
    pub links: BTreeMap<String, RoleLinkRow>,
    /// For each role that is given to whose a contact is, that contact.
    pub contacts: Vec<String>,
    /// How many roles others than admins may have given to these accounts when it is written, and which are counted.
    bounded: BTreeMap<(String, Counted), u64>,
    /// Who gives without being admin; none where roles are given that waited, which count already.
    giver: Option<String>,
    /// How many roles the giver gave before, to accounts and for contacts that wait, and how many this batch adds.
    given_before: Option<(u64, u64)>,
    given_here: u64,
}

impl Giving {
    /// What else is written with it.
    pub fn with(batch: Batch) -> Giving {
        Giving { batch, ..Giving::default() }
    }

    fn add(&mut self, write: Write, link: RoleLinkRow, most_by_others: u64) {
        self.batch.push(write);
        if link.is_by_other() {
            let most = self.bounded.entry((link.user_id.clone(), Counted::of(&link))).or_default();
            *most = most_by_others.max(*most);
        }
        self.links.insert(link.id(), link);
    }

    /// Those that are given a role.
    pub fn accounts(&self) -> BTreeSet<String> {
        self.links.values().map(|link| link.user_id.clone()).collect()
    }

    /// The batch, and that what is bounded still is when it is written.
    pub fn batch(self, limits: &AccessLimits) -> Batch {
        let given: BTreeSet<_> = self.links.values().map(|link| (link.user_id.as_str(), Counted::of(link))).collect();
        let all = given
            .iter()
            .map(|(id, counted)| Guard::at_most(ROLE_LINKS.name, counted.filters(of_account(id)), MAX_ROLES));
        let by_others = self
            .bounded
            .iter()
            .map(|((id, counted), most)| Guard::at_most(ROLE_LINKS.name, counted.filters(by_others(id)), *most));
        let by_giver = self.giver.iter().filter(|_| self.given_here > 0).flat_map(|id| {
            let (links, waits) = self.most_given(limits.role_assignments);
            [
                Guard::at_most(ROLE_LINKS.name, given_by(id), links),
                Guard::at_most(CONTACT_ENROLLS.name, waiting_of(id), waits),
            ]
        });
        let guards: Vec<Guard> = all.chain(by_others).chain(by_giver).collect();
        guards.into_iter().fold(self.batch, Batch::require)
    }

    /// How many roles the giver may have given to accounts, and for contacts that wait, when the batch is written. The
    /// limit is for both together while each is counted alone: up to the half each has its own, and beyond it nothing may
    /// have come to either since they were counted.
    fn most_given(&self, limit: u64) -> (u64, u64) {
        let added = |name: &str| {
            let is_of = |write: &&Write| matches!(write, Write::Create { collection, .. } | Write::Upsert { collection, .. } if *collection == name);
            self.batch.0.iter().filter(is_of).count() as u64
        };
        let (links, waits) = self.given_before.unwrap_or_default();
        let then = (links + added(ROLE_LINKS.name), waits + added(CONTACT_ENROLLS.name));
        if then.0.max(then.1) <= limit / 2 { (limit / 2, limit / 2) } else { then }
    }
}

impl Authz {
    /// Counts one more role that is given by an account; refuses it where an account that is no admin gave too many.
    pub async fn count_given(&self, giving: &mut Giving, giver: &Caller) -> Result<()> {
        if giver.is_admin() {
            return Ok(());
        }
        let before = match giving.given_before {
            Some(before) => before,
            None => {
                let links = self.role_links.count(&given_by(&giver.user_id)).await?;
                (links, self.contact_enrolls.count(&waiting_of(&giver.user_id)).await?)
            }
        };
        let most = self.limits.role_assignments;
        if before.0 + before.1 + giving.given_here >= most {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "an account may have given {most} roles to others, those that wait for contacts included: take some back, \
                     have an admin give them, or have an operator raise OPENORCH_USER_MAX_ROLE_ASSIGNMENTS_PER_ACCOUNT"
                ),
            ));
        }
        giving.given_before = Some(before);
        giving.given_here += 1;
        giving.giver = Some(giver.user_id.to_string());
        Ok(())
    }

    /// Who gave a role that waits, as that account is now; none where it may not give it any more.
    pub async fn giver_of(&self, row: &ContactEnrollRow) -> Result<Option<Caller>> {
        let giver = self.account(&row.created_by).await?.map(|account| account.caller_in(&row.app));
        Ok(giver.filter(|giver| may_give(giver, &row.role_id, &row.app)))
    }

    /// For a contact others than admins give as many roles as to an account, whether it is anybody's or not.
    pub async fn refuse_too_many_for(&self, giving: &Giving, row: &ContactEnrollRow) -> Result<()> {
        if row.by_admin {
            return Ok(());
        }
        let here = giving.contacts.iter().filter(|contact| **contact == row.contact).count() as u64;
        // A contact has few: counted by its giver too, all that one gave would be looked at.
        let of_contact = |field: &str| Query::all().equals(field, row.contact.as_str());
        let waits = self.contact_enrolls.find(&of_contact("contact")).await?;
        let given = self.role_links.find(&of_contact("byContact")).await?;
        let waits = waits.iter().map(|row| (&row.value.created_by, row.value.by_admin));
        let givers: Vec<_> = waits.chain(given.iter().map(|row| (&row.value.created_by, row.value.by_admin))).collect();
        let count =
            |fits: &dyn Fn(&(&String, bool)) -> bool| here + givers.iter().filter(|one| fits(one)).count() as u64;
        let by_giver = count(&|(giver, _)| **giver == row.created_by);
        if by_giver >= MAX_GIVEN {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "an account may give {MAX_GIVEN} roles for one contact: take some back, make one role of several, or have \
                     an admin give them"
                ),
            ));
        }
        let most = most_by_others(by_giver);
        if count(&|(_, by_admin)| !by_admin) >= most {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "accounts that are no admins gave {most} roles for this contact, which is the most for an account that \
                     gave {by_giver} of them; have an admin give this one"
                ),
            ));
        }
        Ok(())
    }

    /// Adds to the batch with which an account shows that a contact is its own the roles that waited for that. One that is
    /// made by it begins with these.
    pub async fn give_waiting(
        &self,
        batch: Batch,
        user_id: &str,
        contact: &str,
        begins_with: &[RoleLinkRow],
    ) -> Result<Batch> {
        let mut giving = Giving::with(batch);
        giving.links.extend(begins_with.iter().map(|link| (link.id(), link.clone())));
        for row in self.contact_enrolls.find(&Query::all().equals("contact", contact)).await? {
            let delete = self.contact_enrolls.delete(&row.id, Some(row.version));
            let giver = match self.rules().roles.contains_key(row.value.role_id.as_str()) {
                true => self.giver_of(&row.value).await?,
                false => None,
            };
            let Some(giver) = giver else {
                giving.batch.push(delete);
                continue;
            };
            let link =
                RoleLinkRow::new(&row.value.app, user_id, &row.value.role_id, self.now()).by_contact_of(&row.value);
            let link = RoleLinkRow { by_admin: giver.is_admin(), ..link };
            // Who has the role already keeps it as it was given: another giver's word may count for less. And what is over
            // the limits is not given: whoever gave it could not have given it directly either. Neither shows.
            let has_it = giving.links.contains_key(&link.id()) || self.role_links.get(&link.id()).await?.is_some();
            if has_it {
                continue;
            }
            let Ok(most) = self.has_room(&giving, &link).await? else { continue };
            giving.batch.push(delete);
            let right = still_gives_role(&giver, &link.role_id, &link.app);
            giving.batch.0.extend(still_gives(&giver).0.into_iter().chain(right.map(Write::Require)));
            giving.batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: link.role_id.clone() }));
            giving.add(self.role_links.upsert(link.id(), &link)?, link, most);
        }
        Ok(giving.batch(&self.limits))
    }

    /// Whether the account of this link may be given one more role by its giver, what the batch gives already counted; and
    /// then how many others than admins may have given it.
    pub async fn has_room(&self, giving: &Giving, link: &RoleLinkRow) -> Result<Result<u64>> {
        let counted = Counted::of(link);
        let stored = async |filters: Vec<Filter>| self.role_links.count(&counted.filters(filters)).await;
        let here = |fits: &dyn Fn(&RoleLinkRow) -> bool| {
            let of_account = giving.links.values().filter(|other| other.user_id == link.user_id && counted.has(other));
            of_account.filter(|other| fits(other)).count() as u64
        };
        let id = link.user_id.as_str();
        if stored(of_account(id)).await? + here(&|_| true) >= MAX_ROLES {
            return Ok(Err(Error::new(&errors::TOO_MANY_ROLES, format!("an account has at most {MAX_ROLES} roles"))));
        }
        if !link.is_by_other() {
            return Ok(Ok(MAX_ROLES));
        }
        let by_giver = [of_account(id), vec![Filter::equals("createdBy", &*link.created_by)]].concat();
        let given = stored(by_giver).await? + here(&|other| other.created_by == link.created_by);
        if given >= MAX_GIVEN {
            return Ok(Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "an account may give {MAX_GIVEN} roles to another: take some from that one, make one role of several, or \
                     have an admin give them"
                ),
            )));
        }
        let most = most_by_others(given);
        if stored(by_others(id)).await? + here(&RoleLinkRow::is_by_other) >= most {
            return Ok(Err(Error::new(
                &errors::QUOTA_REACHED,
                format!(
                    "others than admins gave this account {most} roles, which is the most for an account that gave it {given} \
                     of them: it can put some away, or an admin gives this one"
                ),
            )));
        }
        Ok(Ok(most))
    }

    /// Adds that an account has a role from now on.
    pub async fn give(&self, giving: &mut Giving, link: RoleLinkRow) -> Result<()> {
        let unknown = || {
            Error::new(
                &errors::NO_SUCH_ACCOUNT,
                format!("user not found: there is no account `{}`", shown(&link.user_id)),
            )
        };
        let user = self.accounts.users.get(&link.user_id).await?.ok_or_else(unknown)?;
        refuse_built_in(&user.value)?;
        let most = self.has_room(giving, &link).await??;
        giving.batch.push(Write::Require(Guard::Exists { collection: USERS.name, id: link.user_id.clone() }));
        giving.add(self.role_links.create(link.id(), &link)?, link, most);
        Ok(())
    }

    /// Adds that an account which came to a role by a contact has it by its id from now on, and that the contact waits: as if
    /// nobody had shown yet that it is its own. The refusals are the same as if the
    /// account did not have the role.
    pub async fn give_by_id(&self, giving: &mut Giving, link: &RoleLinkRow, waits: &ContactEnrollRow) -> Result<()> {
        let most = self.has_room(giving, link).await??;
        giving.batch.push(self.contact_enrolls.upsert(waits.id(), waits)?);
        giving.add(self.role_links.upsert(link.id(), link)?, link.clone(), most);
        Ok(())
    }

    /// Adds that an account has a role from now on in the place of one that the batch takes from it: where it may have
    /// no more, it may still have another.
    pub fn give_instead(&self, giving: &mut Giving, link: RoleLinkRow) -> Result<()> {
        giving.batch.push(self.role_links.create(link.id(), &link)?);
        giving.links.insert(link.id(), link);
        Ok(())
    }

    /// Adds to a batch that takes this role from someone: somebody must be left who has it, where it is a role without
    /// which nobody could give it back.
    pub async fn keep_an_admin(&self, link: &RoleLinkRow, batch: Batch) -> Result<Batch> {
        let is_platform = link.role_id == openorch_api::role::ADMIN;
        if !is_platform && !is_admin_role(&link.role_id) {
            return Ok(batch);
        }
        let have_it = vec![Filter::equals("roleId", link.role_id.as_str())];
        if self.role_links.count(&have_it).await? <= 1 {
            return Err(Error::new(
                &errors::LAST_ADMIN,
                if is_platform {
                    "Cannot delete last admin user: give the role `user-svc:admin` to another account first".to_owned()
                } else {
                    format!("nobody else has the role `{}`: make another account admin first", link.role_id)
                },
            ));
        }
        Ok(batch.require(Guard::at_least(ROLE_LINKS.name, have_it, 1)))
    }
}

/// The roles that an account gave without being admin.
fn given_by(id: &str) -> Vec<Filter> {
    vec![Filter::equals("createdBy", id), Filter::equals("byAdmin", false)]
}

/// The roles that an account gave for contacts and that wait.
fn waiting_of(id: &str) -> Vec<Filter> {
    vec![Filter::equals("createdBy", id)]
}

fn of_account(id: &str) -> Vec<Filter> {
    vec![Filter::equals("userId", id)]
}

/// The roles of an account that others gave it who are no admins; see [`RoleLinkRow::is_by_other`].
fn by_others(id: &str) -> Vec<Filter> {
    // Ids have letters, digits, `_` and `-`: `!` comes before all of them.
    let before = Filter::range("createdBy", Some("!".into()), Some(id.into()));
    let after = Filter::range("createdBy", Some(format!("{id}!").into()), None);
    vec![Filter::equals("userId", id), Filter::equals("byAdmin", false), Filter::Any(vec![before, after])]
}
