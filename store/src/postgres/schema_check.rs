//! Verifies that a schema has the tables and indexes of its recorded declarations: a view instead of a table, a trigger
//! or a rule would run foreign code. Other objects of an operator, under other names, are ignored.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Transaction;

use super::errors::PgError;
use crate::sql::{Spec, escape_name};

type Outcome<T> = std::result::Result<T, PgError>;

/// Active objects on our tables, and objects of another kind with the name of one.
const FOREIGN_OBJECTS: &str = r"
    WITH ours AS (
      SELECT c.oid, relname, relkind, relrowsecurity FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
      WHERE nspname = current_schema() AND (relname LIKE 'c\_%' OR relname LIKE 's\_%' OR relname LIKE '\_store\_%'))
    SELECT relname::text, 'has the trigger', tgname::text FROM pg_trigger JOIN ours ON tgrelid = ours.oid WHERE NOT tgisinternal
    UNION ALL
    SELECT relname::text, 'has the rule', rulename::text FROM pg_rewrite JOIN ours ON ev_class = ours.oid WHERE relkind = 'r'
    UNION ALL
    SELECT relname::text, 'has row security', NULL FROM ours WHERE relrowsecurity
    UNION ALL
    SELECT relname::text, CASE relkind WHEN 'v' THEN 'is a view' WHEN 'm' THEN 'is a materialized view'
           WHEN 'f' THEN 'is a foreign table' ELSE 'is no table' END, NULL
    FROM ours WHERE relkind NOT IN ('r', 'p', 'i', 'I', 'S')
    ORDER BY 1, 2, 3";
const COLUMNS: &str = "
    SELECT relname::text, attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
    JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = current_schema() AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped";
/// Each plain index like ours, with its columns in order.
const INDEXES: &str = "
    SELECT c.relname::text, indisunique,
      ARRAY(SELECT attname::text FROM unnest(indkey::int2[]) WITH ORDINALITY AS k(number, place)
            JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = k.number ORDER BY place)
    FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE nspname = current_schema() AND indisvalid AND indpred IS NULL AND indexprs IS NULL";

/// The unexpected and missing objects of the schema, one sentence each.
pub(super) async fn problems(transaction: &Transaction<'_>, recorded: &[Spec<'_>]) -> Outcome<Vec<String>> {
    let mut problems = Vec::new();
    for row in transaction.query(FOREIGN_OBJECTS, &[]).await? {
        let (table, what, name): (&str, &str, Option<&str>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let name = name.map(|name| format!(" `{}`", escape_name(name))).unwrap_or_default();
        problems.push(format!("`{}` {what}{name}", escape_name(table)));
    }
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in transaction.query(COLUMNS, &[]).await? {
        tables.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?);
    }
    let mut indexes: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
    for row in transaction.query(INDEXES, &[]).await? {
        indexes.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    for spec in recorded {
        let own = spec.columns.iter().map(|column| &*column.name).chain(["id", "ver", "doc"]);
        compare_columns(&mut problems, &format!("c_{}", spec.name), own, tables.get(&format!("c_{}", spec.name)));
        for list in &spec.lists {
            let columns = list.columns();
            compare_columns(
                &mut problems,
                &list.name,
                columns.iter().map(|name| &**name).chain(["id"]),
                tables.get(&list.name),
            );
        }
        for index in &spec.indexes {
            let columns: Vec<String> = index.columns.iter().map(|name| name.trim_matches('"').to_owned()).collect();
            if indexes.get(&index.name) != Some(&(index.unique, columns)) {
                problems.push(format!("the index `{}` is missing, broken or defined in another way", index.name));
            }
        }
    }
    Ok(problems)
}

fn compare_columns<'a>(
    problems: &mut Vec<String>,
    table: &str,
    columns: impl Iterator<Item = &'a str>,
    found: Option<&BTreeSet<String>>,
) {
    let wanted: BTreeSet<String> = columns.map(str::to_owned).collect();
    match found {
        None => problems.push(format!("the table `{table}` is missing")),
        Some(found) if *found == wanted => {}
        Some(_) => problems.push(format!("the table `{table}` has different columns")),
    }
}
