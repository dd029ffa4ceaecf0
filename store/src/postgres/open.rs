//! Opens a schema: connects to the database, validates it, locks the schema, and creates it or recognizes it as ours.
//! Everything that can be checked is checked before anything is changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_postgres::{Client, Error, error::SqlState, types::Type};

use super::{
    connection_string::{CONNECT_TIMEOUT, ConnectOptions},
    errors::{PgError, describe, is_transient},
    schema_lock::{self, LockConnection, LockKeeper},
};
use crate::{
    Result, StoreError,
    sql::{ListSpec, quote, random_id},
};

/// The layout version of tables and keys. 2 added tables for lists and `min_compatible`.
const LAYOUT: u32 = 2;
/// The lowest layout that a program must know to write here; stored in each database, so that an older program can
/// refuse it. Programs that only know layout 1 would not update the tables of lists.
const MIN_COMPATIBLE: u32 = 2;
/// How often a connection is tested for a change of its session: a pooler may assign the same one again.
const POOLER_CHECKS: usize = 4;
/// PostgreSQL 13.
const MIN_SERVER_VERSION: i32 = 130_000;

/// A locked schema that was recognized as ours.
pub(super) struct OpenedSchema {
    pub(super) keeper: LockKeeper,
    pub(super) database_id: String,
    pub(super) seeded: bool,
}

/// The identity and state recorded in a schema.
pub(super) struct DatabaseInfo {
    pub(super) id: String,
    pub(super) seeded: bool,
}

/// Refuses a schema name that would need quoting or has a reserved prefix.
pub(super) fn check_schema(name: &str) -> Result<()> {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.len() <= 63
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !name.starts_with("pg_") && name != "information_schema" {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "`{}` cannot be the schema; use up to 63 lower-case letters, digits and `_`, not starting with a digit or \
         `pg_`",
        name.chars().take(100).collect::<String>().escape_debug()
    )))
}

/// Opens the schema. `wanted` is the expected database id, if known.
pub(super) async fn open(
    target: &Arc<ConnectOptions>,
    schema: &str,
    patience: Duration,
    wanted: Option<&str>,
) -> Result<OpenedSchema> {
    let doing = format!("opening the schema `{schema}` of {}", target.display_name);
    let (client, connection) = connect(target, patience).await?;
    let opened = async {
        schema_lock::set_up_session(&client).await?;
        check_server(target, &client).await?;
        let mut lock = LockConnection::acquire(target, schema, client, connection).await?;
        let opening = random_id()?;
        lock.block_writers(schema).await?;
        let identity = Schema { target, name: schema }.open(&mut lock.client, wanted, &opening).await?;
        lock.allow_writes(schema).await?;
        let keeper = LockKeeper::new(target.clone(), schema.to_owned(), lock, opening);
        Ok(OpenedSchema { keeper, database_id: identity.id, seeded: identity.seeded })
    };
    opened.await.map_err(|failure: PgError| failure.into_store(&doing))
}

/// Connects; waits up to `patience` for an unreachable database.
pub(super) async fn connect(
    target: &ConnectOptions,
    patience: Duration,
) -> Result<(Client, tokio::task::JoinHandle<()>)> {
    let until = Instant::now() + patience;
    let mut pause = Duration::from_millis(100);
    let mut has_warned = false;
    loop {
        // A server that accepts connections but does not respond may be starting, so it is retried too.
        let left = until.saturating_duration_since(Instant::now());
        let why = match target.connect(left.clamp(pause, CONNECT_TIMEOUT)).await {
            Ok(connected) => return Ok(connected),
            Err(PgError::Postgres(error)) if !is_transient(&error) => return Err(connection_refused(target, &error)),
            Err(PgError::Postgres(error)) => describe(&error),
            Err(PgError::Store(error)) => error.sentence().to_owned(),
        };
        if Instant::now() + pause > until {
            return Err(StoreError::Unavailable(format!(
                "{} did not answer within {} s: {why}; start it, or correct the connection string",
                target.display_name,
                patience.as_secs_f32()
            )));
        }
        if !has_warned {
            tracing::warn!("{} does not answer ({why}); waiting for it", target.display_name);
            has_warned = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The error for a permanently refused connection.
fn connection_refused(target: &ConnectOptions, error: &Error) -> StoreError {
    let (place, told) = (&target.display_name, describe(error));
    let way_out = match error.code() {
        Some(&SqlState::INVALID_PASSWORD) => "correct the user and the password in the connection string",
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            "correct the user in the connection string, or allow it in the server's pg_hba.conf"
        }
        Some(&SqlState::INVALID_CATALOG_NAME) => {
            "create it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, or correct the connection string"
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => "grant the user the CONNECT privilege on the database",
        Some(_) => "see the server's log",
        None => "correct the connection string (for TLS: sslmode and sslrootcert)",
    };
    StoreError::Unavailable(format!("{place} refused the connection: {told}; {way_out}"))
}

/// Refuses an unsuitable server: an old version, another encoding, a standby, a transaction pooler.
pub(super) async fn check_server(target: &ConnectOptions, client: &Client) -> std::result::Result<(), PgError> {
    let row = client
        .query_typed(
            "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
             current_setting('server_encoding'), pg_is_in_recovery(), current_setting('fsync')",
            &[],
        )
        .await?;
    let Some(row) = row.first() else { return Ok(()) };
    let (number, version, encoding): (i32, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (is_standby, fsync): (bool, &str) = (row.try_get(3)?, row.try_get(4)?);
    let place = &target.display_name;
    let refusal = if number < MIN_SERVER_VERSION {
        format!("{place} is PostgreSQL {version}; version 13 or newer is required")
    } else if encoding != "UTF8" {
        format!(
            "{place} has the encoding {encoding}, which cannot represent all text; create another database with CREATE \
             DATABASE openorch ENCODING 'UTF8' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    } else if is_standby {
        format!("{place} is a read-only standby; use the primary, or all hosts with target_session_attrs=read-write")
    } else if is_transaction_pooler(target, client).await {
        format!(
            "{place} is a pooler in transaction mode (PgBouncer with pool_mode=transaction), where session locks and \
             settings do not persist; use the address of the server itself, or of a pool with pool_mode=session"
        )
    } else {
        if fsync != "on" {
            tracing::warn!("{place} has fsync turned off: a power failure may lose or damage all of its data");
        }
        return Ok(());
    };
    Err(StoreError::Unavailable(refusal).into())
}

/// Whether a transaction pooler is in between: a setting of this session is visible in another connection, or no longer
/// in this one. If the test fails, assumes that there is none.
async fn is_transaction_pooler(target: &ConnectOptions, client: &Client) -> bool {
    let look = async {
        let token = random_id()?;
        client.batch_execute(&format!("SET openorch.session = '{token}'")).await?;
        let (mut second, _) = target.connect(CONNECT_TIMEOUT).await?;
        // The transaction pins its session, so `client` must get another one.
        let transaction = second.transaction().await?;
        if setting_is_visible(transaction.client(), &token).await? {
            return Ok(true);
        }
        for _ in 0..POOLER_CHECKS {
            if !setting_is_visible(client, &token).await? {
                return Ok(true);
            }
        }
        // A round-robin pooler with two sessions left gave this connection its own session back; the next connection
        // gets it now.
        let (mut third, _) = target.connect(CONNECT_TIMEOUT).await?;
        let transaction = third.transaction().await?;
        if setting_is_visible(transaction.client(), &token).await? {
            return Ok(true);
        }
        client.batch_execute("RESET openorch.session").await?;
        Ok::<_, PgError>(false)
    };
    matches!(tokio::time::timeout(CONNECT_TIMEOUT, look).await, Ok(Ok(true)))
}

async fn setting_is_visible(client: &Client, token: &str) -> std::result::Result<bool, PgError> {
    let sql = "SELECT FROM (VALUES (1)) one WHERE current_setting('openorch.session', true) = $1";
    Ok(!client.query_typed(sql, &[(&token, Type::TEXT)]).await?.is_empty())
}

/// A schema, locked or not.
pub(super) struct Schema<'a> {
    pub(super) target: &'a ConnectOptions,
    pub(super) name: &'a str,
}

impl Schema<'_> {
    /// Recognizes the schema as ours, or creates it, in one transaction.
    async fn open(
        &self,
        client: &mut Client,
        wanted: Option<&str>,
        opening: &str,
    ) -> std::result::Result<DatabaseInfo, PgError> {
        let transaction = client.transaction().await?;
        // We hold the lock, so no other daemon does the same now; an operator's concurrent change of the schema is
        // serialized with this transaction as a whole.
        let client = transaction.client();
        let there = self.check_rights(client).await?;
        client.batch_execute(&format!("SET LOCAL search_path = {}", quote(self.name))).await?;
        let found = if there { self.read_info(client).await? } else { None };
        let identity = match (found, wanted) {
            (Some(found), Some(wanted)) if found.id != wanted => {
                return Err(self.wrong_database(&found.id, wanted).into());
            }
            (None, Some(wanted)) => return Err(self.missing_database(wanted).into()),
            (Some(found), _) if found.seeded => found,
            // An unfinished first start. It had not acknowledged anything yet.
            (Some(_), Some(wanted)) => return Err(self.missing_database(wanted).into()),
            (Some(_), None) => {
                self.drop_own_tables(client).await?;
                self.create_tables(client, random_id()?, false).await?
            }
            (None, None) => {
                if !there {
                    client.batch_execute(&format!("CREATE SCHEMA {}", quote(self.name))).await?;
                }
                self.create_tables(client, random_id()?, false).await?
            }
        };
        let remember = format!(
            "INSERT INTO _store_info VALUES ('opening', '{opening}') ON CONFLICT (key) DO UPDATE SET value = '{opening}';
             SET LOCAL client_min_messages = warning; {}",
            schema_lock::create_fence_sql(self.name, opening)
        );
        client.batch_execute(&remember).await?;
        transaction.commit().await?;
        Ok(identity)
    }

    /// Whether the schema exists, whatever the privileges on it.
    pub(super) async fn exists(&self, client: &Client) -> std::result::Result<bool, PgError> {
        let sql = "SELECT FROM pg_namespace WHERE nspname = $1";
        Ok(!client.query_typed(sql, &[(&self.name, Type::TEXT)]).await?.is_empty())
    }

    /// Refuses a schema that is not empty.
    pub(super) async fn require_empty(&self, client: &Client) -> std::result::Result<(), PgError> {
        let sql = "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE nspname = $1 ORDER BY relname LIMIT 1";
        match client.query_typed(sql, &[(&self.name, Type::TEXT)]).await?.first() {
            None => Ok(()),
            Some(row) => Err(StoreError::AlreadyExists(format!(
                "the schema `{}` of {} is not empty: it contains `{}`; restore into another schema, or drop this one \
                 if its data is not needed. Nothing was changed",
                self.name,
                self.target.display_name,
                row.try_get::<_, &str>(0)?
            ))
            .into()),
        }
    }

    /// Whether the schema exists. Refuses a user without the required privileges.
    pub(super) async fn check_rights(&self, client: &Client) -> std::result::Result<bool, PgError> {
        let rows = client
            .query_typed(
                &format!(
                    "SELECT has_database_privilege(current_database(), 'CREATE'), current_user::text, \
                     current_database()::text, \
                     (SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE') \
                      FROM pg_namespace WHERE nspname = '{}')",
                    self.name
                ),
                &[],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let (may_create, user, database): (bool, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (place, name) = (&self.target.display_name, self.name);
        match row.try_get(3)? {
            None if !may_create => Err(StoreError::Unavailable(format!(
                "the user `{user}` has no privilege to create the schema `{name}` in {place}; run there: CREATE SCHEMA \
                 {name} AUTHORIZATION \"{user}\" (or GRANT CREATE ON DATABASE \"{database}\" TO \"{user}\")"
            ))
            .into()),
            Some(false) => Err(StoreError::Unavailable(format!(
                "the user `{user}` has no privileges on the schema `{name}` of {place}; run there: ALTER SCHEMA {name} \
                 OWNER TO \"{user}\", or choose another schema"
            ))
            .into()),
            there => Ok(there.is_some()),
        }
    }

    /// Reads the identity of the schema; `None` if it has no tables of ours.
    pub(super) async fn read_info(&self, client: &Client) -> std::result::Result<Option<DatabaseInfo>, PgError> {
        let rows = client
            .query_typed(
                &format!(
                    "SELECT FROM pg_class WHERE relname = '_store_info' AND relnamespace = '{}'::regnamespace",
                    self.name
                ),
                &[],
            )
            .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let not_ours = |why: &str| {
            StoreError::Corrupt(format!(
                "the table `_store_info` in the schema `{}` of {} {why}; restore a backup, or choose another schema. \
                 Nothing was changed",
                self.name, self.target.display_name
            ))
        };
        let rows = client.query_typed("SELECT key::text, value::text FROM _store_info", &[]).await;
        let rows = rows.map_err(|error| match error.code() {
            Some(&SqlState::UNDEFINED_COLUMN) => PgError::Store(not_ours("is not OpenOrch's")),
            _ => PgError::Postgres(error),
        })?;
        let mut info = BTreeMap::new();
        for row in &rows {
            let (key, value): (&str, Option<&str>) = (row.try_get(0)?, row.try_get(1)?);
            info.insert(key, value.unwrap_or_default());
        }
        let number = |key: &str| info.get(key).and_then(|text| text.parse::<u32>().ok());
        let (Some(id), Some(seeded), Some(layout)) = (info.get("database_id"), info.get("seeded"), number("layout"))
        else {
            return Err(not_ours("lacks what OpenOrch writes there").into());
        };
        if layout > LAYOUT && number("min_compatible").unwrap_or(layout) > LAYOUT {
            return Err(StoreError::Unavailable(format!(
                "the schema `{}` of {} was written by a newer version (layout {layout}, this version knows {LAYOUT}); start \
                 that version, or restore a backup made before it. Nothing was changed",
                self.name, self.target.display_name
            ))
            .into());
        }
        Ok(Some(DatabaseInfo { id: (*id).to_owned(), seeded: *seeded == "1" }))
    }

    /// Creates the store's own tables.
    pub(super) async fn create_tables(
        &self,
        client: &Client,
        id: String,
        seeded: bool,
    ) -> std::result::Result<DatabaseInfo, PgError> {
        client
            .batch_execute(&format!(
                "CREATE TABLE _store_info(key text COLLATE \"C\" PRIMARY KEY, value text NOT NULL);
                 CREATE TABLE _store_meta(collection text COLLATE \"C\" PRIMARY KEY, spec text NOT NULL, version bigint NOT NULL);
                 CREATE SEQUENCE _store_version;
                 INSERT INTO _store_info VALUES ('layout', '{LAYOUT}'), ('min_compatible', '{MIN_COMPATIBLE}');"
            ))
            .await?;
        let is_seeded = if seeded { "1" } else { "0" };
        client
            .query_typed(
                "INSERT INTO _store_info VALUES ('database_id', $1), ('seeded', $2)",
                &[(&id, Type::TEXT), (&is_seeded, Type::TEXT)],
            )
            .await?;
        Ok(DatabaseInfo { id, seeded })
    }

    /// Drops the tables of an unfinished seeding, and nothing else in the schema.
    async fn drop_own_tables(&self, client: &Client) -> std::result::Result<(), PgError> {
        let rows = client.query_typed("SELECT collection, spec FROM _store_meta", &[]).await?;
        let mut sql = String::new();
        for row in &rows {
            let (collection, declaration): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
            sql += &format!("DROP TABLE IF EXISTS {};", quote(&format!("c_{collection}")));
            for list in ListSpec::tables(declaration) {
                sql += &format!("DROP TABLE IF EXISTS {};", quote(&list));
            }
        }
        sql += "DROP TABLE _store_meta, _store_info; DROP SEQUENCE _store_version;";
        Ok(client.batch_execute(&sql).await?)
    }

    fn wrong_database(&self, found: &str, wanted: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "the schema `{}` of {} is database {found}, but this daemon was started with database {wanted}; correct the \
             connection string. Nothing was changed",
            self.name, self.target.display_name
        ))
    }

    fn missing_database(&self, wanted: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "the schema `{}` of {} is missing or empty, but this daemon was started with database {wanted}; restore it from a \
             backup, or correct the connection string. Nothing was changed",
            self.name, self.target.display_name
        ))
    }
}
