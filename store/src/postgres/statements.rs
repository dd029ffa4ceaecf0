//! The SQL of one collection, and its parameters. Each write is a single statement, including the changes of list
//! entries, so that a batch of one write needs no explicit transaction.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::PreparedDocument;
use crate::{
    Row,
    sql::{Bind, Spec, quote},
};

/// The statements of one collection.
pub(super) struct Statements {
    /// For a batch of one write.
    pub(super) standalone: Writes,
    /// For a transaction that has already allocated a version.
    pub(super) in_transaction: Writes,
    pub(super) get: String,
    pub(super) version: String,
}

/// Each returns in its first column the new version of the document; no row, or null, if nothing was written. The `_at`
/// statements return the previous version in the second column.
pub(super) struct Writes {
    pub(super) create: String,
    pub(super) upsert: String,
    pub(super) replace: String,
    pub(super) replace_at: String,
    pub(super) delete: String,
    pub(super) delete_at: String,
}

/// Allocates a version for a new batch; refused if another daemon has opened the schema (see `schema_lock.rs`).
pub(super) const NEXT_VERSION: &str = "SELECT _store_next()";

impl From<&Spec<'_>> for Statements {
    fn from(spec: &Spec<'_>) -> Self {
        Self {
            standalone: Writes::new(spec, "_store_next()"),
            in_transaction: Writes::new(spec, "currval('_store_version')"),
            get: format!("SELECT id, ver, doc FROM {} WHERE id = $1", spec.table),
            version: format!("SELECT ver FROM {} WHERE id = $1", spec.table),
        }
    }
}

impl Writes {
    /// Parameters: 1 is the id, 2 the document, then the keys, then for each list its elements and the keys of its
    /// fields, and last the expected version. A deletion has the id and the expected version.
    fn new(spec: &Spec<'_>, version: &str) -> Self {
        let table = &spec.table;
        let names: Vec<String> = spec.columns.iter().map(|column| quote(&column.name)).collect();
        let all: String = names.iter().map(|name| format!(", {name}")).collect();
        let marks: String = (0..names.len()).map(|at| format!(", ${}", at + 3)).collect();
        let set: String = names.iter().enumerate().map(|(at, name)| format!(", {name} = ${}", at + 3)).collect();
        let excluded: String = names.iter().map(|name| format!(", {name} = excluded.{name}")).collect();

        let insert =
            format!("INSERT INTO {table}(id, ver, doc{all}) VALUES ($1, {version}, $2{marks}) ON CONFLICT (id) DO");
        let update = format!("UPDATE {table} SET ver = {version}, doc = $2{set} WHERE id = $1");
        let delete = format!("DELETE FROM {table} WHERE id = $1");
        let (come, gone, dropped, last) = list_ctes(spec, names.len() + 3);
        let both = [gone, come.clone()].concat();
        Self {
            // ON CONFLICT (id) is checked before the unique indexes, so a duplicate document is reported by its id.
            create: write_sql(&format!("{insert} NOTHING"), "ver", &come),
            upsert: write_sql(
                &format!("{insert} UPDATE SET ver = excluded.ver, doc = excluded.doc{excluded}"),
                "ver",
                &both,
            ),
            replace: write_sql(&update, "ver", &both),
            replace_at: versioned_write_sql(&format!("{update} AND ver = ${last}"), "ver", &both, table),
            delete: write_sql(&delete, version, &dropped),
            delete_at: versioned_write_sql(&format!("{delete} AND ver = $2"), version, &dropped, table),
        }
    }
}

/// A write of any version, with its changes of list entries.
fn write_sql(write: &str, version: &str, lists: &[String]) -> String {
    if lists.is_empty() {
        return format!("{write} RETURNING {version}");
    }
    format!("WITH d AS ({write} RETURNING id, {version} AS ver), {} SELECT ver FROM d", lists.join(", "))
}

/// A write that expects a version. The second column is the previous version, because the statement sees the table as
/// it was before.
fn versioned_write_sql(write: &str, version: &str, lists: &[String], table: &str) -> String {
    let lists: String = lists.iter().map(|list| format!(", {list}")).collect();
    format!(
        "WITH d AS ({write} RETURNING id, {version} AS ver){lists} \
         SELECT (SELECT ver FROM d), (SELECT ver FROM {table} WHERE id = $1)"
    )
}

/// The CTEs that change the list entries of `d`, the written document: inserts, deletes of removed elements, and
/// deletes of all entries for a deleted document; and the number after the last parameter. All entries of a document
/// have the same fields, so unchanged entries are identified by the element alone, unless the fields have changed.
fn list_ctes(spec: &Spec<'_>, first: usize) -> (Vec<String>, Vec<String>, Vec<String>, usize) {
    let (mut come, mut gone, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = first;
    for (number, list) in spec.lists.iter().enumerate() {
        let (table, elements) = (&list.table, at);
        let columns = list.columns();
        let fields: Vec<(usize, &String)> =
            columns.iter().skip(1).enumerate().map(|(n, k)| (elements + 1 + n, k)).collect();
        let values: String = fields.iter().map(|(mark, _)| format!("${mark}::bytea, ")).collect();
        let same: String = fields.iter().map(|(mark, name)| format!(" AND s.{name} = ${mark}")).collect();
        come.push(format!(
            "c{number} AS (INSERT INTO {table}({}, id) SELECT v, {values}d.id FROM d, unnest(${elements}::bytea[]) v \
             ON CONFLICT DO NOTHING)",
            columns.join(", ")
        ));
        gone.push(format!(
            "g{number} AS (DELETE FROM {table} s USING d WHERE s.id = d.id AND NOT (s.val = ANY(${elements}){same}))"
        ));
        dropped.push(format!("g{number} AS (DELETE FROM {table} s USING d WHERE s.id = d.id)"));
        at = elements + columns.len();
    }
    (come, gone, dropped, at)
}

/// A parameter.
#[derive(Debug)]
pub(super) enum Param<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    BytesArray(Vec<&'a [u8]>),
    Version(i64),
}

impl<'a> Param<'a> {
    /// An id. PostgreSQL does not accept a NUL in text; no document has such an id or an empty one.
    pub(super) fn id(id: &'a str) -> Self {
        Self::Text(if id.contains('\0') { "" } else { id })
    }

    /// An expected version; no document has one beyond i64 or a negative one.
    pub(super) fn version(version: u64) -> Self {
        Self::Version(i64::try_from(version).unwrap_or(-1))
    }
}

/// The parameters of a document, in the order of [`Writes`].
pub(super) fn params_of(document: &PreparedDocument) -> Vec<Param<'_>> {
    let mut values = vec![Param::id(&document.doc_ref.id), Param::Text(&document.body)];
    values.extend(document.keys.iter().map(|key| Param::Bytes(key)));
    for (list, entries) in document.doc_ref.known.spec.lists.iter().zip(&document.entries) {
        values.push(Param::BytesArray(entries.iter().map(|entry| &*entry[0]).collect()));
        // Without elements there are no entries, so the fields do not matter.
        let field = |at: usize| entries.first().and_then(|entry| entry.get(at)).map_or(&[][..], |key| key);
        values.extend((1..=list.fields.len()).map(|at| Param::Bytes(field(at))));
    }
    values
}

type Written = Result<IsNull, Box<dyn Error + Sync + Send>>;

impl ToSql for Param<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Written {
        match self {
            // JSON is sent as text.
            Self::Text(text) => text.to_sql(&Type::TEXT, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
            Self::BytesArray(many) => many.to_sql(kind, out),
            Self::Version(version) => version.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::TEXT, Type::JSON, Type::BYTEA, Type::BYTEA_ARRAY, Type::INT8].contains(kind)
    }

    to_sql_checked!();
}

impl ToSql for Bind {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Written {
        match self {
            Self::Key(key) => key.as_slice().to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
            Self::Integer(number) => number.to_sql(kind, out),
            Self::Keys(keys) => keys.to_sql(kind, out),
            Self::Texts(texts) => texts.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::TEXT, Type::TEXT_ARRAY, Type::BYTEA, Type::BYTEA_ARRAY, Type::INT8].contains(kind)
    }

    to_sql_checked!();
}

/// A received document: JSON as text.
struct Json(Box<str>);

impl FromSql<'_> for Json {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.into()))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }
}

/// The row of a statement that selects id, version and document.
pub(super) fn row_of(row: &tokio_postgres::Row) -> Result<Row, tokio_postgres::Error> {
    let version: i64 = row.try_get(1)?;
    Ok(Row { id: row.try_get(0)?, version: version.unsigned_abs(), body: row.try_get::<_, Json>(2)?.0 })
}
