//! Removes the roles of deleted accounts. Older versions left a role that was assigned concurrently with the deletion:
//! it counted as a remaining admin, and the next account with that id inherited it. Runs once per database.

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

/// The id of the row that records completion.
const MIGRATION: &str = "orphaned-roles-removed";
const PAGE_SIZE: u64 = 500;

pub async fn remove_orphaned_roles(store: &Arc<dyn Store>, now: Time) -> Result<(), StartError> {
    let done: Table<MigrationRow> = Table::new(store.clone(), &MIGRATIONS);
    if done.get(MIGRATION).await?.is_some() {
        return Ok(());
    }
    let links: Table<RoleLinkRow> = Table::new(store.clone(), &ROLE_LINKS);
    let users: Table<UserRow> = Table::new(store.clone(), &USERS);
    let mut query = Query::all().limit(PAGE_SIZE);
    loop {
        let page = links.page(&query).await?;
        let ids: HashSet<String> = page.items.iter().map(|link| link.value.user_id.clone()).collect();
        let known = users.find(&Query::all().is_in("id", ids)).await?;
        let existing_ids: HashSet<String> = known.into_iter().map(|user| user.id).collect();
        let orphans = page.items.iter().filter(|link| !existing_ids.contains(&link.value.user_id));
        let batch: Batch = orphans.map(|link| links.delete(&link.id, Some(link.version))).collect();
        if !batch.is_empty() {
            tracing::info!("removing {} roles of deleted accounts", batch.0.len());
            store.commit(batch).await?;
        }
        match page.next {
            Some(next) => query = Query::all().limit(PAGE_SIZE).after(next),
            None => break,
        }
    }
    store.commit(done.upsert(MIGRATION, &MigrationRow { at: now })?.into()).await?;
    Ok(())
}
