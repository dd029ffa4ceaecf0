//! Migrates the tables of PostgreSQL to their declaration in one transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::Known;
use super::errors::Failure;
use super::flight::Sent;
use super::statements::{NEXT_VERSION, Value};
use crate::sql::change::{self, Change, FILL_AT_ONCE, Recorded, SPEC_VERSION, There};
use crate::sql::{Column, Dialect, ListSpec, Spec, quote};
use crate::{StoreError, document};

type Outcome<T> = std::result::Result<T, Failure>;

/// Migrates the tables of these collections to their declaration, all or none.
pub(super) async fn bring_up(client: &mut ClientWrapper, collections: &[Arc<Known>]) -> Outcome<()> {
    let is_done = |recorded: &Recorded| collections.iter().all(|one| change::is_as_declared(recorded, &one.spec));
    if is_done(&recorded(client).await?) {
        return Ok(());
    }
    // Serializes migrations by a row lock, which every compatible server has. Read committed, because the changes of
    // the previous migration must be visible, which a serializable transaction would not show.
    let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    let turn = format!("SELECT FROM _store_info WHERE key = 'layout' FOR UPDATE; {NEXT_VERSION}");
    transaction.batch_execute(&turn).await?;
    bring_up_within(&transaction, collections).await?;
    Ok(transaction.commit().await?)
}

/// The same, within the caller's transaction.
pub(super) async fn bring_up_within(transaction: &Transaction<'_>, collections: &[Arc<Known>]) -> Outcome<()> {
    let recorded = recorded(transaction.client()).await?;
    for known in collections {
        if !change::is_as_declared(&recorded, &known.spec) {
            change::check_case(&recorded, &known.spec)?;
            Tables { transaction, spec: &known.spec }.bring_up(&recorded).await?;
        }
    }
    Ok(())
}

pub(super) async fn recorded(client: &Client) -> Outcome<Recorded> {
    let mut recorded = Recorded::new();
    for row in client.query("SELECT collection, spec, version FROM _store_meta", &[]).await? {
        recorded.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    Ok(recorded)
}

/// The migration of the tables of one collection.
struct Tables<'a> {
    transaction: &'a Transaction<'a>,
    spec: &'a Spec<'a>,
}

impl Tables<'_> {
    async fn bring_up(&self, recorded: &Recorded) -> Outcome<()> {
        let there = self.look().await?;
        let change = Change::new(self.spec, recorded, &there);
        let table = &self.spec.table;
        let mut first = String::new();
        for index in &change.drop_indexes {
            first += &format!("DROP INDEX {};", quote(index));
        }
        for column in &change.drop_columns {
            first += &format!("ALTER TABLE {table} DROP COLUMN {};", quote(column));
        }
        for column in &change.add_columns {
            first += &format!("ALTER TABLE {table} ADD COLUMN {};", column_of(column));
        }
        for list in &change.drop_lists {
            first += &format!("DROP TABLE IF EXISTS {};", quote(list));
        }
        for list in &change.add_lists {
            first += &table_of(list);
        }
        self.transaction.batch_execute(&first).await?;
        if change.fills() && !there.is_new {
            self.fill(&change.add_columns, &change.add_lists).await?;
        }
        for index in &change.add_indexes {
            self.transaction.batch_execute(&index.create(table)).await.map_err(|error| match error.code() {
                Some(&SqlState::UNIQUE_VIOLATION) => change::broken_by_documents(self.spec, index).into(),
                _ => Failure::from(error),
            })?;
        }
        if !there.is_new {
            // Updates the planner statistics of new columns and indexes.
            let lists: String = change.add_lists.iter().map(|list| format!("ANALYZE {};", list.table)).collect();
            self.transaction.batch_execute(&format!("ANALYZE {table}; {lists}")).await?;
        }
        self.transaction
            .execute(
                "INSERT INTO _store_meta VALUES ($1, $2, $3) \
                 ON CONFLICT (collection) DO UPDATE SET spec = excluded.spec, version = excluded.version",
                &[&self.spec.name, &self.spec.declaration, &SPEC_VERSION],
            )
            .await?;
        Ok(())
    }

    /// Creates the table if it is missing, and returns its columns and indexes.
    async fn look(&self) -> Outcome<There> {
        let table = format!("c_{}", self.spec.name);
        let is_new = self.names(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema AND tablename = $1",
            &table,
        );
        let is_new = is_new.await?.is_empty();
        if is_new {
            let columns: String = self.spec.columns.iter().map(|column| format!("{}, ", column_of(column))).collect();
            self.transaction.batch_execute(&table_with_columns(&self.spec.table, &columns)).await?;
        }
        Ok(There {
            is_new,
            columns: self
                .names(
                    "SELECT column_name::text FROM information_schema.columns \
                     WHERE table_schema = current_schema AND table_name = $1",
                    &table,
                )
                .await?,
            indexes: self
                .names(
                    "SELECT indexname::text FROM pg_indexes WHERE schemaname = current_schema AND tablename = $1 \
                     AND (indexname LIKE 'ix %' OR indexname LIKE 'ux %')",
                    &table,
                )
                .await?,
        })
    }

    async fn names(&self, sql: &str, table: &str) -> Outcome<BTreeSet<String>> {
        let rows = self.transaction.query(sql, &[&table]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Fills new columns and lists from the documents.
    async fn fill(&self, columns: &[&Column<'_>], lists: &[&ListSpec<'_>]) -> Outcome<()> {
        let (transaction, spec, table) = (self.transaction, self.spec, &self.spec.table);
        let set: Vec<String> =
            columns.iter().enumerate().map(|(at, column)| format!("{} = ${}", quote(&column.name), at + 2)).collect();
        let update = match columns {
            [] => None,
            _ => Some(transaction.prepare(&format!("UPDATE {table} SET {} WHERE id = $1", set.join(", "))).await?),
        };
        let mut adding = Vec::new();
        for list in lists {
            adding.push((*list, transaction.prepare(&adding_entry(list)).await?));
        }
        let select = format!("SELECT id, doc::text FROM {table} WHERE id > $1 ORDER BY id LIMIT {FILL_AT_ONCE}");
        let select = transaction.prepare(&select).await?;
        let mut last = String::new();
        loop {
            let rows = transaction.query(&select, &[&last]).await?;
            let Some(row) = rows.last() else { return Ok(()) };
            last = row.try_get(0)?;
            for row in &rows {
                let (id, doc): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
                let document = document::parse_stored(doc, spec.name, id)?;
                let keys = columns.iter().map(|column| column.content.of(id, &document));
                let keys = keys.collect::<Result<Vec<_>, StoreError>>()?;
                let entries = adding.iter().map(|(list, add)| Ok((add, spec.entries(list, id, &document)?)));
                let entries = entries.collect::<Result<Vec<_>, StoreError>>()?;
                let mut sent = Vec::new();
                if let Some(update) = &update {
                    let mut values = vec![Value::id(id)];
                    values.extend(keys.iter().map(|key| Value::Bytes(key)));
                    sent.push(Sent::of(transaction.execute_raw(update, values)).await);
                }
                for (add, entries) in &entries {
                    for entry in entries {
                        let mut values = vec![Value::id(id)];
                        values.extend(entry.iter().map(|key| Value::Bytes(key)));
                        sent.push(Sent::of(transaction.execute_raw(*add, values)).await);
                    }
                }
                for sent in sent {
                    sent.answer().await?;
                }
            }
        }
    }
}

/// The table of a collection without index columns.
pub(super) fn table_without_columns(table: &str) -> String {
    table_with_columns(table, "")
}

/// Documents are `json` and not `jsonb`: they are returned byte for byte, as by SQLite, and an operator can still query
/// `doc->>'slug'`. Our filters do not use it. Ids compare bytewise, whatever the collation of the database; keys are
/// bytes.
fn table_with_columns(table: &str, columns: &str) -> String {
    format!("CREATE TABLE {table}(id text COLLATE \"C\" PRIMARY KEY, ver bigint NOT NULL, {columns}doc json NOT NULL)")
}

fn table_of(list: &ListSpec<'_>) -> String {
    let columns = list.columns();
    let typed: String = columns.iter().map(|column| format!("{column} bytea NOT NULL, ")).collect();
    format!(
        "CREATE TABLE {0}({typed}id text COLLATE \"C\" NOT NULL, PRIMARY KEY ({1}, id)); CREATE INDEX ON {0}(id);",
        list.table,
        columns.join(", ")
    )
}

/// The first parameter is the id, then the columns follow.
fn adding_entry(list: &ListSpec<'_>) -> String {
    let columns = list.columns();
    let marks: String = (0..columns.len()).map(|at| format!(", ${}", at + 2)).collect();
    format!("INSERT INTO {}(id, {}) VALUES ($1{marks})", list.table, columns.join(", "))
}

fn column_of(column: &Column<'_>) -> String {
    format!("{} {}", quote(&column.name), column.content.kind(Dialect::Postgres))
}
