//! Changes of the access rules: decided on the rules in memory, committed in one batch, then published. Also handles
//! commits of unknown outcome.

use std::sync::Arc;

use openorch_chassis::{Cx, Result, audit::CallAudit};
use openorch_store::{Batch, Filter, Query, Write};

use crate::user::authz::{
    rows::{CONTACT_ENROLLS, ROLE_LINKS},
    rules::{AccessRules, Change, usage},
    state::Authz,
};

/// Maximum number of rows deleted per batch when a role is removed, so that other writes can run in between.
const ROWS_PER_BATCH: usize = 2000;

impl Authz {
    /// Changes the rules. `decide` returns the changes and further writes of the same batch. Other changes wait
    /// meanwhile, so slow work should be done before.
    pub async fn change_rules(
        &self,
        call: &CallAudit,
        decide: impl FnOnce(&AccessRules) -> Result<(Vec<Change>, Batch)>,
    ) -> Result<()> {
        self.change_rules_within(call, |_, _| Ok(()), decide).await
    }

    /// Changes the rules for the caller, subject to the quotas per account and in total.
    pub async fn change_rules_of<S>(
        &self,
        cx: &Cx<S>,
        decide: impl FnOnce(&AccessRules) -> Result<(Vec<Change>, Batch)>,
    ) -> Result<()> {
        let caller = cx.caller()?;
        let limits = &self.limits;
        let check = |before: &AccessRules, after: &AccessRules| {
            if !usage::is_limited(caller) {
                return Ok(());
            }
            let (had, has) = (before.usage(&caller.user_id), after.usage(&caller.user_id));
            has.check_quota(&had, limits)?;
            usage::check_total(before.bytes(), after.bytes(), has.bytes(), limits)
        };
        self.change_rules_within(&cx.request.audit, check, decide).await
    }

    async fn change_rules_within(
        &self,
        call: &CallAudit,
        check: impl FnOnce(&AccessRules, &AccessRules) -> Result<()>,
        decide: impl FnOnce(&AccessRules) -> Result<(Vec<Change>, Batch)>,
    ) -> Result<()> {
        let mut is_stale = self.change_lock.lock().await;
        if *is_stale {
            self.set_rules(AccessRules::read(&self.platform.store).await?);
            self.cache.all_rights_changed();
            *is_stale = false;
        }
        let rules = self.rules();
        let (changes, mut batch) = decide(&rules)?;
        for change in &changes {
            self.rule_tables.write(&mut batch, change)?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        let deleted_roles: Vec<String> = changes
            .iter()
            .filter_map(|change| match change {
                Change::SaveRole(row) if row.going => Some(row.id.clone()),
                _ => None,
            })
            .collect();
        let mut next = AccessRules::clone(&rules);
        next.apply(changes);
        check(&rules, &next)?;
        match self.platform.commit(call, batch).await {
            Ok(_) => {
                self.set_rules(next);
                if !deleted_roles.is_empty() {
                    self.cache.roles_deleted(deleted_roles.iter().map(String::as_str));
                }
                Ok(())
            }
            Err(error) => {
                // It may have been stored, so the next change and the next reconciliation reload the rules.
                *is_stale = error.outcome_unknown();
                self.commits.record_if_indeterminate(&error);
                Err(error.into())
            }
        }
    }

    /// Reloads the rules after a change of unknown outcome.
    pub async fn reconcile_rules(&self) -> Result<()> {
        if self.commits.is_indeterminate() {
            *self.change_lock.lock().await = true;
            self.cache.all_rights_changed();
        }
        self.change_rules(&CallAudit::NONE, |_| Ok((Vec::new(), Batch::new()))).await
    }

    /// Removes roles being deleted from all accounts and frees their ids. Failures are retried a second later or after
    /// a restart.
    pub async fn remove_deleted_roles(&self) {
        let deleting: Vec<Arc<str>> = self.load_rules().deleting.iter().cloned().collect();
        for id in deleting {
            if let Err(error) = self.remove_deleted_role(&id).await {
                tracing::warn!("the deleted role `{id}` cannot be removed from all accounts yet, retrying: {error:?}");
            }
        }
    }

    /// Deletes many rows in small batches, so that other writes can run in between. Fewer than [`ROWS_PER_BATCH`] rows
    /// remain, which the caller deletes in the same batch as everything that must be deleted with them.
    pub async fn delete_in_batches(
        &self,
        call: &CallAudit,
        collection: &'static str,
        filters: &[Filter],
    ) -> Result<()> {
        loop {
            let some = Query { filters: filters.to_vec(), ..Query::all() }.limit(ROWS_PER_BATCH as u64);
            let rows = self.platform.store.find(collection, &some).await?.rows;
            if rows.len() < ROWS_PER_BATCH {
                return Ok(());
            }
            // By filter, since some may be deleted concurrently.
            let filters = vec![Filter::is_in("id", rows.into_iter().map(|row| row.id))];
            self.platform.audit.commit_part(call, Write::DeleteWhere { collection, filters }.into()).await?;
        }
    }

    async fn remove_deleted_role(&self, id: &str) -> Result<()> {
        for collection in [ROLE_LINKS.name, CONTACT_ENROLLS.name] {
            self.delete_in_batches(&CallAudit::NONE, collection, &[Filter::equals("roleId", id)]).await?;
        }
        self.change_rules(&CallAudit::NONE, |rules| {
            let is_there = rules.deleting.contains(id);
            Ok((is_there.then(|| Change::DeleteRole(id.to_owned())).into_iter().collect(), Batch::new()))
        })
        .await
    }
}
