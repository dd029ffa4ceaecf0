//! Takes away the roles of accounts that are gone. Deletions of older versions left a role behind that was given in the same
//! moment: it counted as an admin that is left, and was had by the next account with that id. Done once for each database.

use std::{collections::HashSet, sync::Arc};

use openorch_api::Time;
use openorch_store::{Batch, Query, Store, Table};

use crate::user::{
    authz::rows::{ROLE_LINKS, RoleLinkRow},
    shared::{
        rows::{MIGRATIONS, MigrationRow, USERS, UserRow},
        start_error::StartError,
    },
};

/// What is noted when it is done.
const DONE: &str = "orphaned-roles-removed";
const AT_ONCE: u64 = 500;

pub async fn remove_orphaned_roles(store: &Arc<dyn Store>, now: Time) -> Result<(), StartError> {
    let done: Table<MigrationRow> = Table::new(store.clone(), &MIGRATIONS);
    if done.get(DONE).await?.is_some() {
        return Ok(());
    }
    let links: Table<RoleLinkRow> = Table::new(store.clone(), &ROLE_LINKS);
    let users: Table<UserRow> = Table::new(store.clone(), &USERS);
    let mut query = Query::all().limit(AT_ONCE);
    loop {
        let page = links.page(&query).await?;
        let ids: HashSet<String> = page.items.iter().map(|link| link.value.user_id.clone()).collect();
        let known = users.find(&Query::all().is_in("id", ids)).await?;
        let known: HashSet<String> = known.into_iter().map(|user| user.id).collect();
        let orphans = page.items.iter().filter(|link| !known.contains(&link.value.user_id));
        let batch: Batch = orphans.map(|link| links.delete(&link.id, Some(link.version))).collect();
        if !batch.is_empty() {
            tracing::info!("{} roles of accounts that were deleted are taken away", batch.0.len());
            store.commit(batch).await?;
        }
        match page.next {
            Some(next) => query = Query::all().limit(AT_ONCE).after(next),
            None => break,
        }
    }
    store.commit(done.upsert(DONE, &MigrationRow { at: now })?.into()).await?;
    Ok(())
}
