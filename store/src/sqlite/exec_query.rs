//! Executes query plans on a connection.

use rusqlite::{
    Connection, Statement, ToSql, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};

use super::errors::from_sqlite;
use crate::{
    Page, Result, Row, StoreError,
    sql::{Bind, CountPlan, Plan},
};

/// The maximum size in bytes of a result read in the caller's thread.
const MAX_SHORT_BYTES: usize = 256 * 1024;

impl ToSql for Bind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Key(key) => ValueRef::Blob(key),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Integer(number) => ValueRef::Integer(*number),
            // SQLite has no arrays, and its plans contain none.
            Self::Keys(_) | Self::Texts(_) => ValueRef::Null,
        }))
    }
}

/// The page of a query.
pub(super) fn find(plan: &Plan, connection: &Connection) -> Result<Page> {
    let mut collector = plan.collector();
    if !plan.has_zero_limit() {
        for_each_row(connection, plan, |row| collector.push(row))?;
    }
    collector.page()
}

/// The same, abandoned if the page is large.
pub(super) fn find_short(plan: &Plan, connection: &Connection) -> Result<Page> {
    let mut collector = plan.collector();
    let mut bytes = 0;
    if !plan.has_zero_limit() {
        for_each_row(connection, plan, |row| {
            bytes += row.body.len();
            if bytes > MAX_SHORT_BYTES {
                return Err(StoreError::TimedOut(String::new()));
            }
            collector.push(row)
        })?;
    }
    collector.page()
}

/// Streams the rows in chunks; `send` returns whether more are needed.
pub(super) fn stream(
    plan: &Plan,
    connection: &Connection,
    mut send: impl FnMut(Vec<Row>) -> Result<bool>,
) -> Result<()> {
    if plan.has_zero_limit() {
        return Ok(());
    }
    let mut collector = plan.collector();
    let mut wanted = true;
    for_each_row(connection, plan, |row| {
        let more = collector.push(row)?;
        if collector.has_full_chunk() {
            wanted = send(collector.drain())?;
        }
        Ok(more && wanted)
    })?;
    if !wanted {
        return Ok(());
    }
    collector.finish();
    let mut rest = collector.drain();
    while !rest.is_empty() {
        if !send(rest)? {
            return Ok(());
        }
        rest = collector.drain();
    }
    Ok(())
}

/// Passes the rows of the plan's statement to `take` until it has enough.
pub(super) fn for_each_row(connection: &Connection, plan: &Plan, take: impl FnMut(Row) -> Result<bool>) -> Result<()> {
    let values = plan.values();
    with_statement(connection, plan.spec.name, &plan.sql, plan.is_cacheable(), |statement| {
        rows(statement, values, plan.spec.name, take)
    })
}

/// Counts the matching documents, up to the limit of the plan.
pub(super) fn count(plan: &CountPlan, connection: &Connection) -> Result<u64> {
    let (name, values) = (plan.spec.name, plan.values());
    with_statement(connection, name, &plan.sql, plan.is_cacheable(), |statement| {
        if plan.is_counted_in_sql() {
            let counted = statement.query_row(params_from_iter(values), |row| row.get::<_, i64>(0));
            return counted.map(i64::unsigned_abs).map_err(|error| from_sqlite(error, &format!("counting in {name}")));
        }
        let mut count = 0;
        rows(statement, values, name, |row| plan.count_row(&row, &mut count))?;
        Ok(count)
    })
}

fn with_statement<T>(
    connection: &Connection,
    name: &str,
    sql: &str,
    is_cacheable: bool,
    run: impl FnOnce(&mut Statement<'_>) -> Result<T>,
) -> Result<T> {
    let failed = |error| from_sqlite(error, &format!("reading {name}"));
    if is_cacheable {
        run(&mut *connection.prepare_cached(sql).map_err(failed)?)
    } else {
        run(&mut connection.prepare(sql).map_err(failed)?)
    }
}

fn rows(
    statement: &mut Statement<'_>,
    values: &[Bind],
    name: &str,
    mut take: impl FnMut(Row) -> Result<bool>,
) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("reading {name}"));
    let mut rows = statement.query(params_from_iter(values)).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        if !take(row_of(row).map_err(failed)?)? {
            break;
        }
    }
    Ok(())
}

/// The row of a statement that selects id, version and document.
pub(crate) fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let version: i64 = row.get(1)?;
    let body = row.get_ref(2)?.as_str()?;
    Ok(Row { id: row.get(0)?, version: version.unsigned_abs(), body: body.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::explain_on_sqlite;
    use crate::{Collection, Cursor, Index, Query};

    const COLLECTION: Collection = Collection {
        name: "plans",
        indexes: &[
            Index::on(&["owner", "at"]),
            Index::on(&["at"]),
            Index::on(&["lower(name)"]),
            Index::on(&["place.city"]),
            Index::unique(&["slug"]),
            Index::each("readers", &["kind", "at"]),
        ],
    };

    #[test]
    fn declared_fields_are_sought_and_their_order_needs_no_sorting() {
        let explain = |query: &Query| explain_on_sqlite(&COLLECTION, query).unwrap();
        let after = |values: Vec<Value>| Cursor { values, id: Some("x".into()) };
        let owner = || Query::all().equals("owner", "o");
        for (query, index) in [
            (Query::all().equals("id", "x"), "(id=?)"),
            (Query::all().is_in("id", ["x", "y"]), "(id=?)"),
            (Query::all().after(after(vec![])).limit(5), "(id>?)"),
            (owner(), "ix plans(owner,at) (f_owner=?)"),
            (owner().ascending("at"), "ix plans(owner,at) (f_owner=?)"),
            (owner().descending("at").limit(50), "ix plans(owner,at) (f_owner=?)"),
            (owner().equals("at", 1), "ix plans(owner,at) (f_owner=? AND f_at=?)"),
            (owner().ascending("at").after(after(vec![json!(1)])), "ix plans(owner,at) (f_owner=? AND f_at>?)"),
            (owner().descending("at").after(after(vec![json!(1)])), "ix plans(owner,at) (f_owner=? AND f_at<?)"),
            (Query::all().ascending("at").after(after(vec![json!(1)])), "ix plans(at) (f_at>?)"),
            (Query::all().descending("at").after(after(vec![json!(null)])).limit(9), "ix plans(at) (f_at<?)"),
            (Query::all().starts_with("name", "Ab"), "ix plans(lower(name)) (l_name>? AND l_name<?)"),
            (Query::all().equals("place.city", "x"), "ix plans(place.city) (f_place.city=?)"),
            (Query::all().is_in("place.city", ["x", "y", "z"]), "ix plans(place.city) (f_place.city=?)"),
            (Query::all().equals("slug", "x"), "ux plans(slug) (f_slug=?)"),
            (
                Query::all().filter(crate::Filter::range("at", Some(json!(1)), Some(json!(5)))),
                "ix plans(at) (f_at>? AND f_at<?)",
            ),
            (Query::all().intersects("readers", ["a", "b"]), "s_plans(readers/kind,at) USING PRIMARY KEY (val=?)"),
            (owner().intersects("readers", ["a", "b"]).ascending("at").limit(5), "ix plans(owner,at) (f_owner=?)"),
            (
                Query::all().intersects("readers", ["a", "b"]).equals("kind", "k").descending("at").limit(5),
                "s_plans(readers/kind,at) USING PRIMARY KEY (val=? AND k1=?)",
            ),
            (
                Query::all()
                    .intersects("readers", ["a"])
                    .equals("kind", "k")
                    .descending("at")
                    .after(after(vec![json!(3)]))
                    .limit(5),
                "s_plans(readers/kind,at) USING PRIMARY KEY (val=? AND k1=? AND k2<?)",
            ),
            (owner().equals("undeclared", 1).ascending("at").limit(3), "ix plans(owner,at) (f_owner=?)"),
            (
                Query::all()
                    .intersects("readers", ["a"])
                    .equals("kind", "k")
                    .equals("undeclared", 1)
                    .descending("at")
                    .after(after(vec![json!(3)]))
                    .limit(5),
                "s_plans(readers/kind,at) USING PRIMARY KEY (val=? AND k1=? AND k2<?)",
            ),
        ] {
            let shown = explain(&query);
            let scans = shown.contains("SCAN c_") || shown.contains("SCAN s_");
            assert!(shown.contains("SEARCH") && shown.contains(index) && !scans, "{query:?}: {shown}");
            // List queries merge at most a page of each element, which needs a sort.
            if !query.order.is_empty() && !shown.contains("CO-ROUTINE t") {
                assert!(!shown.contains("TEMP B-TREE"), "{query:?}: {shown}");
            }
        }
        // Index order without a filter: SQLite walks the index and calls it a scan.
        let shown = explain(&Query::all().descending("at").limit(3));
        assert!(shown.contains("SCAN c_plans USING INDEX ix plans(at)") && !shown.contains("TEMP B-TREE"), "{shown}");
    }
}
