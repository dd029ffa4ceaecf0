//! Migrates the tables of PostgreSQL to their declaration in one transaction.

use std::{collections::BTreeSet, sync::Arc};

use deadpool_postgres::ClientWrapper;
use tokio_postgres::{Client, IsolationLevel, Transaction, error::SqlState};

use super::{
    OpenCollection,
    errors::PgError,
    pipeline::PendingResponse,
    statements::{NEXT_VERSION, Param},
};
use crate::{
    StoreError, document,
    sql::{
        Column, Dialect, ListSpec, Spec,
        migration::{self, BACKFILL_BATCH, ExistingTable, Migration, RecordedCollections, SPEC_VERSION},
        quote,
    },
};

type Outcome<T> = std::result::Result<T, PgError>;

/// Migrates the tables of these collections to their declaration, all or none.
pub(super) async fn migrate(client: &mut ClientWrapper, collections: &[Arc<OpenCollection>]) -> Outcome<()> {
    let is_done =
        |recorded: &RecordedCollections| collections.iter().all(|one| migration::is_up_to_date(recorded, &one.spec));
    if is_done(&recorded(client).await?) {
        return Ok(());
    }
    // Serializes migrations by a row lock, which every compatible server has. Read committed, because the changes of
    // the previous migration must be visible, which a serializable transaction would not show.
    let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    let turn = format!("SELECT FROM _store_info WHERE key = 'layout' FOR UPDATE; {NEXT_VERSION}");
    transaction.batch_execute(&turn).await?;
    migrate_in_transaction(&transaction, collections).await?;
    Ok(transaction.commit().await?)
}

/// The same, within the caller's transaction.
pub(super) async fn migrate_in_transaction(
    transaction: &Transaction<'_>,
    collections: &[Arc<OpenCollection>],
) -> Outcome<()> {
    let recorded = recorded(transaction.client()).await?;
    for known in collections {
        if !migration::is_up_to_date(&recorded, &known.spec) {
            migration::check_name_case(&recorded, &known.spec)?;
            TableMigration { transaction, spec: &known.spec }.run(&recorded).await?;
        }
    }
    Ok(())
}

pub(super) async fn recorded(client: &Client) -> Outcome<RecordedCollections> {
    let mut recorded = RecordedCollections::new();
    for row in client.query("SELECT collection, spec, version FROM _store_meta", &[]).await? {
        recorded.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    Ok(recorded)
}

/// The migration of the tables of one collection.
struct TableMigration<'a> {
    transaction: &'a Transaction<'a>,
    spec: &'a Spec<'a>,
}

impl TableMigration<'_> {
    async fn run(&self, recorded: &RecordedCollections) -> Outcome<()> {
        let there = self.create_or_inspect().await?;
        let change = Migration::new(self.spec, recorded, &there);
        let table = &self.spec.table;
        let mut first = String::new();
        for index in &change.drop_indexes {
            first += &format!("DROP INDEX {};", quote(index));
        }
        for column in &change.drop_columns {
            first += &format!("ALTER TABLE {table} DROP COLUMN {};", quote(column));
        }
        for column in &change.add_columns {
            first += &format!("ALTER TABLE {table} ADD COLUMN {};", column_definition(column));
        }
        for list in &change.drop_lists {
            first += &format!("DROP TABLE IF EXISTS {};", quote(list));
        }
        for list in &change.add_lists {
            first += &list_table_sql(list);
        }
        self.transaction.batch_execute(&first).await?;
        if change.needs_backfill() && !there.is_new {
            self.backfill(&change.add_columns, &change.add_lists).await?;
        }
        for index in &change.add_indexes {
            self.transaction.batch_execute(&index.create(table)).await.map_err(|error| match error.code() {
                Some(&SqlState::UNIQUE_VIOLATION) => migration::unique_violation_in_documents(self.spec, index).into(),
                _ => PgError::from(error),
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
    async fn create_or_inspect(&self) -> Outcome<ExistingTable> {
        let table = format!("c_{}", self.spec.name);
        let is_new = self.names(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema AND tablename = $1",
            &table,
        );
        let is_new = is_new.await?.is_empty();
        if is_new {
            let columns: String =
                self.spec.columns.iter().map(|column| format!("{}, ", column_definition(column))).collect();
            self.transaction.batch_execute(&table_with_columns(&self.spec.table, &columns)).await?;
        }
        Ok(ExistingTable {
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
    async fn backfill(&self, columns: &[&Column<'_>], lists: &[&ListSpec<'_>]) -> Outcome<()> {
        let (transaction, spec, table) = (self.transaction, self.spec, &self.spec.table);
        let set: Vec<String> =
            columns.iter().enumerate().map(|(at, column)| format!("{} = ${}", quote(&column.name), at + 2)).collect();
        let update = match columns {
            [] => None,
            _ => Some(transaction.prepare(&format!("UPDATE {table} SET {} WHERE id = $1", set.join(", "))).await?),
        };
        let mut adding = Vec::new();
        for list in lists {
            adding.push((*list, transaction.prepare(&insert_entry_sql(list)).await?));
        }
        let select = format!("SELECT id, doc::text FROM {table} WHERE id > $1 ORDER BY id LIMIT {BACKFILL_BATCH}");
        let select = transaction.prepare(&select).await?;
        let mut last = String::new();
        loop {
            let rows = transaction.query(&select, &[&last]).await?;
            let Some(row) = rows.last() else { return Ok(()) };
            last = row.try_get(0)?;
            for row in &rows {
                let (id, doc): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
                let document = document::parse_stored(doc, spec.name, id)?;
                let keys = columns.iter().map(|column| column.content.key_of(id, &document));
                let keys = keys.collect::<Result<Vec<_>, StoreError>>()?;
                let entries = adding.iter().map(|(list, add)| Ok((add, spec.entries(list, id, &document)?)));
                let entries = entries.collect::<Result<Vec<_>, StoreError>>()?;
                let mut sent = Vec::new();
                if let Some(update) = &update {
                    let mut values = vec![Param::id(id)];
                    values.extend(keys.iter().map(|key| Param::Bytes(key)));
                    sent.push(PendingResponse::send(transaction.execute_raw(update, values)).await);
                }
                for (add, entries) in &entries {
                    for entry in entries {
                        let mut values = vec![Param::id(id)];
                        values.extend(entry.iter().map(|key| Param::Bytes(key)));
                        sent.push(PendingResponse::send(transaction.execute_raw(*add, values)).await);
                    }
                }
                for sent in sent {
                    sent.response().await?;
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

fn list_table_sql(list: &ListSpec<'_>) -> String {
    let columns = list.columns();
    let typed: String = columns.iter().map(|column| format!("{column} bytea NOT NULL, ")).collect();
    format!(
        "CREATE TABLE {0}({typed}id text COLLATE \"C\" NOT NULL, PRIMARY KEY ({1}, id)); CREATE INDEX ON {0}(id);",
        list.table,
        columns.join(", ")
    )
}

/// The first parameter is the id, then the columns follow.
fn insert_entry_sql(list: &ListSpec<'_>) -> String {
    let columns = list.columns();
    let marks: String = (0..columns.len()).map(|at| format!(", ${}", at + 2)).collect();
    format!("INSERT INTO {}(id, {}) VALUES ($1{marks})", list.table, columns.join(", "))
}

fn column_definition(column: &Column<'_>) -> String {
    format!("{} {}", quote(&column.name), column.content.column_type(Dialect::Postgres))
}
