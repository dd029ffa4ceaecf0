//! Converts contacts of older versions to the current normalized form (decision "Contact comparison"). Those versions
//! removed the `+tag` of an address and sent codes to the rest, which may belong to another person. The migration
//! restores contacts as entered by the user, and those with a tag become unverified until confirmed by a code. Runs
//! once per database.

use std::sync::Arc;

use openorch_api::Time;
use openorch_store::{Batch, Filter, Query, Store, Stored, Table};

use crate::user::{
    authz::rows::{CONTACT_ENROLLS, ContactEnrollRow, ROLE_LINKS, RoleLinkRow},
    shared::{
        contact_address::normalize,
        rows::{CONTACTS, ContactRow, MIGRATIONS, MigrationRow, USERS, UserRow},
        start_error::StartError,
    },
};

/// The id of the row that records completion.
const MIGRATION: &str = "contacts-unfolded";
const PAGE_SIZE: u64 = 500;

pub async fn restore_contact_tags(store: &Arc<dyn Store>, now: Time) -> Result<(), StartError> {
    let done: Table<MigrationRow> = Table::new(store.clone(), &MIGRATIONS);
    if done.get(MIGRATION).await?.is_some() {
        return Ok(());
    }
    let contacts: Table<ContactRow> = Table::new(store.clone(), &CONTACTS);
    let users: Table<UserRow> = Table::new(store.clone(), &USERS);
    let mut query = Query::all().limit(PAGE_SIZE);
    loop {
        let page = contacts.page(&query).await?;
        for row in page.items {
            if let Some(user) = users.get(&row.value.user_id).await? {
                restore_tag(store, &contacts, &users, row, user).await?;
            }
        }
        match page.next {
            Some(next) => query = Query::all().limit(PAGE_SIZE).after(next),
            None => break,
        }
    }
    rename_in_enrolls(store).await?;
    store.commit(done.upsert(MIGRATION, &MigrationRow { at: now })?.into()).await?;
    Ok(())
}

/// Converts a contact to the normalized form of what the user entered.
async fn restore_tag(
    store: &Arc<dyn Store>,
    contacts: &Table<ContactRow>,
    users: &Table<UserRow>,
    row: Stored<ContactRow>,
    user: Stored<UserRow>,
) -> Result<(), StartError> {
    let Stored { id, version, value: mut contact } = row;
    let Stored { version: user_version, value: mut user, .. } = user;
    let Some(typed) = user.contacts.iter_mut().find(|typed| normal_without_tag(&typed.value) == id) else {
        return Ok(());
    };
    let new_id = normalize(&typed.value);
    let lost_tag = normal_without_tag(&typed.value) != typed.value.trim().to_lowercase();
    let verified = contact.verified && !lost_tag;
    if new_id == id && typed.id == id && contact.verified == verified {
        return Ok(());
    }
    (typed.id, typed.verified, contact.verified) = (new_id.clone(), verified, verified);
    let mut batch = Batch::new();
    if new_id == id {
        batch.push(contacts.replace(&id, &contact, Some(version))?);
    } else {
        batch.push(contacts.delete(&id, Some(version)));
        // An existing contact in the new form keeps its owner.
        if contacts.get(&new_id).await?.is_none() {
            batch.push(contacts.create(&new_id, &contact)?);
        }
    }
    batch.push(users.replace(&user.id, &user, Some(user_version))?);
    store.commit(batch).await?;
    tracing::info!(account.slug = %user.slug, "converted a contact of `{}` to its full form", user.slug);
    Ok(())
}

/// Converts the contacts of pending and assigned roles. Their tags are lost.
async fn rename_in_enrolls(store: &Arc<dyn Store>) -> Result<(), StartError> {
    let pending: Table<ContactEnrollRow> = Table::new(store.clone(), &CONTACT_ENROLLS);
    for row in pending.find(&Query::all()).await? {
        let contact = normalize(&row.value.contact);
        if contact != row.value.contact {
            let renamed = ContactEnrollRow { contact, ..row.value };
            let batch = Batch::new().with(pending.delete(&row.id, Some(row.version)));
            store.commit(batch.with(pending.upsert(renamed.id(), &renamed)?)).await?;
        }
    }
    let links: Table<RoleLinkRow> = Table::new(store.clone(), &ROLE_LINKS);
    let by_contact = Filter::range("byContact", Some("".into()), None);
    for row in links.find(&Query::all().filter(by_contact)).await? {
        let Some(contact) = row.value.by_contact.as_deref().map(normalize) else { continue };
        if row.value.by_contact.as_ref() != Some(&contact) {
            let id = ContactEnrollRow {
                contact: contact.clone(),
                role_id: row.value.role_id.clone(),
                app: row.value.app.clone(),
                created_at: row.value.created_at,
                created_by: row.value.created_by.clone(),
                by_admin: row.value.by_admin,
            }
            .id();
            let renamed = RoleLinkRow { by_contact: Some(contact), contact_enroll_id: Some(id), ..row.value };
            store.commit(links.replace(&row.id, &renamed, Some(row.version))?.into()).await?;
        }
    }
    Ok(())
}

/// The normalized form of older versions.
fn normal_without_tag(contact: &str) -> String {
    let contact = contact.trim().to_lowercase();
    match contact.rsplit_once('@') {
        Some((local, host)) => match local.split_once('+') {
            Some((local, _)) if !local.is_empty() => format!("{local}@{host}"),
            _ => contact,
        },
        None => contact,
    }
}
