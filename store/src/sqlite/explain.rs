//! Query plans of SQLite.

use std::sync::Arc;

use rusqlite::{Connection, params_from_iter};

use super::{errors::from_sqlite, schema};
use crate::{
    Collection, Query, Result,
    sql::{Dialect, Plan, Spec},
};

/// The plan for a query on a collection. It does not depend on the documents, because the engine collects no
/// statistics.
pub fn explain_on_sqlite(collection: &Collection, query: &Query) -> Result<String> {
    let spec = Arc::new(Spec::new(collection)?);
    let plan = Plan::new(Dialect::Sqlite, spec.clone(), query)?;
    let explained = || {
        let connection = Connection::open_in_memory()?;
        connection
            .execute_batch("CREATE TABLE _store_meta(collection TEXT PRIMARY KEY, spec TEXT, version INTEGER)")?;
        Ok((schema::migrate(&connection, [&*spec].into_iter()), connection))
    };
    let failed = |error| from_sqlite(error, "explaining a query");
    let (made, connection) = explained().map_err(failed)?;
    made?;
    let lines = || {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", plan.sql))?;
        let lines = statement.query_map(params_from_iter(plan.values()), |row| row.get::<_, String>(3))?;
        lines.collect::<rusqlite::Result<Vec<_>>>()
    };
    Ok(lines().map_err(failed)?.join("; "))
}
