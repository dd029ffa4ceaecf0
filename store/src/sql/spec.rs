//! A validated collection declaration: its table, the index columns that Rust fills from each document, its indexes,
//! and one more table for each list whose elements are indexed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Dialect;
use crate::{Collection, Index, Result, StoreError, document, key, query::check_field};

/// The maximum size in bytes of one document's keys in one index. PostgreSQL allows 2,704 in a b-tree entry, which also
/// contains an id of up to 512.
const MAX_INDEX_KEY_BYTES: usize = 2_100;
/// The maximum number of elements of an indexed list.
const MAX_LIST_ELEMENTS: usize = 1_000;
/// PostgreSQL truncates names at 63 bytes.
const MAX_NAME_BYTES: usize = 60;

/// A declaration from code is `'static` ([`Spec::new`]); one that is recorded in a database borrows its text
/// ([`Spec::recorded`]).
pub(crate) struct Spec<'d> {
    pub(crate) name: &'d str,
    /// The quoted name of its table. All names below are quoted unless noted.
    pub(crate) table: String,
    pub(crate) columns: Vec<Column<'d>>,
    pub(crate) indexes: Vec<IndexSpec>,
    pub(crate) lists: Vec<ListSpec<'d>>,
    /// The whole declaration as text, to compare declarations.
    pub(crate) declaration: String,
}

/// An index column that Rust fills from the document.
pub(crate) struct Column<'d> {
    /// Not quoted.
    pub(crate) name: String,
    pub(crate) content: ColumnContent<'d>,
}

pub(crate) enum ColumnContent<'d> {
    /// The key of a field: `f_…`, or `l_…` for the lower-cased text.
    Key(Field<'d>),
    /// The last column of a unique index, `u_…`: empty, or the id if a field is missing, which exempts the document.
    Exemption(Vec<Field<'d>>),
}

#[derive(Clone, PartialEq)]
pub(crate) struct Field<'d> {
    path: &'d str,
    lower: bool,
}

pub(crate) struct IndexSpec {
    /// Not quoted.
    pub(crate) name: String,
    pub(crate) unique: bool,
    /// The fields as declared, for messages.
    pub(crate) declared: String,
    /// Its columns, in order.
    pub(crate) columns: Vec<String>,
    /// The positions of its keys among the columns of the collection.
    key_positions: Vec<usize>,
}

/// A list whose elements are indexed, in a table of its own: `val`, the key of the element; `k1`, `k2` … the keys of
/// the fields; `id`, the document's.
pub(crate) struct ListSpec<'d> {
    /// Not quoted.
    pub(crate) name: String,
    pub(crate) table: String,
    /// The dotted path of the list.
    pub(crate) list: &'d str,
    pub(crate) fields: Vec<Field<'d>>,
    declared: String,
}

/// An [`Index`] from code or from a recorded declaration.
struct IndexDecl<'d> {
    fields: Vec<&'d str>,
    unique: bool,
    each: Option<&'d str>,
}

/// The keys of one list entry: of the element, then of the fields.
pub(crate) type Entry = Vec<Vec<u8>>;

impl Spec<'static> {
    /// Validates a declaration.
    pub(crate) fn new(collection: &Collection) -> Result<Self> {
        let of = |index: &Index| IndexDecl { fields: index.fields.to_vec(), unique: index.unique, each: index.each };
        Spec::from_indexes(collection.name, collection.indexes.iter().map(of))
    }
}

impl<'d> Spec<'d> {
    /// Parses a recorded declaration. `Corrupt` if it is not valid.
    pub(crate) fn recorded(name: &'d str, declaration: &'d str) -> Result<Self> {
        let indexes = declaration.split(';').filter(|said| !said.is_empty()).map(|said| IndexDecl::parse(name, said));
        let spec =
            indexes.collect::<Option<Vec<_>>>().and_then(|indexes| Spec::from_indexes(name, indexes.into_iter()).ok());
        spec.filter(|spec| spec.declaration == declaration).ok_or_else(|| {
            StoreError::Corrupt(format!(
                "the recorded declaration of the collection `{}` is not one that this version knows",
                escape_name(name)
            ))
        })
    }

    fn from_indexes(name: &'d str, indexes: impl Iterator<Item = IndexDecl<'d>>) -> Result<Self> {
        check_name(name)?;
        let mut spec = Self {
            name,
            table: quote(&format!("c_{name}")),
            columns: Vec::new(),
            indexes: Vec::new(),
            lists: Vec::new(),
            declaration: String::new(),
        };
        let mut declaration = Vec::new();
        for index in indexes {
            let index_text = match index.each {
                Some(list) => spec.add_list(&index, list)?,
                None => spec.add_index(&index)?,
            };
            if !declaration.contains(&index_text) {
                declaration.push(index_text);
            }
        }
        spec.declaration = declaration.join(";");
        Ok(spec)
    }

    fn add_index(&mut self, index: &IndexDecl<'d>) -> Result<String> {
        let name = self.name;
        let fields = index.fields.iter().map(|text| Field::new(text)).collect::<Result<Vec<_>>>()?;
        if fields.is_empty() {
            return Err(StoreError::Internal(format!("an index of {name} has no fields")));
        }
        let declared = index.fields.join(",");
        let (mut columns, mut parts) = (Vec::new(), Vec::new());
        for field in &fields {
            columns.push(if field.is_id() { "id".into() } else { quote(&field.column()) });
            if !field.is_id() {
                parts.push(
                    self.add_column(Column { name: field.column(), content: ColumnContent::Key(field.clone()) })?,
                );
            }
        }
        if index.unique {
            let exemption = shorten(format!("u_{declared}"));
            columns.push(quote(&exemption));
            self.add_column(Column { name: exemption, content: ColumnContent::Exemption(fields) })?;
        } else if columns.last().is_some_and(|last| last != "id") {
            columns.push("id".into());
        }
        // The name encodes the whole index, so a changed declaration gets another name.
        let said = format!("{} {name}({declared})", if index.unique { "ux" } else { "ix" });
        let index_name = shorten(said.clone());
        if !self.indexes.iter().any(|there| there.name == index_name) {
            self.indexes.push(IndexSpec {
                name: index_name,
                unique: index.unique,
                declared,
                columns,
                key_positions: parts,
            });
        }
        Ok(said)
    }

    fn add_list(&mut self, index: &IndexDecl<'d>, list: &'d str) -> Result<String> {
        check_field(list)?;
        let fields = index.fields.iter().map(|text| Field::new(text)).collect::<Result<Vec<_>>>()?;
        // The id must not be named: every entry ends with it.
        if index.unique || list == "id" || fields.iter().any(Field::is_id) {
            return Err(StoreError::Internal(format!(
                "an index of {} on each `{list}` must not be unique or name the id",
                self.name
            )));
        }
        let declared = format!("{list}/{}", index.fields.join(","));
        let index_text = format!("s_{}({declared})", self.name);
        let name = shorten(index_text.clone());
        if !self.lists.iter().any(|there| there.name == name) {
            self.lists.push(ListSpec { table: quote(&name), name, list, fields, declared });
        }
        Ok(index_text)
    }

    /// The position of a column, which is added if it is missing.
    fn add_column(&mut self, column: Column<'d>) -> Result<usize> {
        match self.columns.iter().position(|there| there.name.eq_ignore_ascii_case(&column.name)) {
            None => self.columns.push(column),
            Some(place) if self.columns[place].name == column.name => return Ok(place),
            Some(place) => {
                return Err(StoreError::Internal(format!(
                    "fields of {} differ only in case: {} and {}",
                    self.name, self.columns[place].name, column.name
                )));
            }
        }
        Ok(self.columns.len() - 1)
    }

    /// The values of the index columns for this document, in their order. `Invalid` if they are too long for an index.
    pub(crate) fn keys(&self, id: &str, document: &Value) -> Result<Vec<Vec<u8>>> {
        let keys = self.columns.iter().map(|column| column.content.key_of(id, document)).collect::<Result<Vec<_>>>()?;
        for index in &self.indexes {
            let bytes = index.key_positions.iter().map(|place| keys[*place].len()).sum::<usize>();
            if bytes > MAX_INDEX_KEY_BYTES {
                return Err(self.too_long(id, &index.declared, bytes));
            }
        }
        Ok(keys)
    }

    /// The entries of this document in one of the lists, sorted and without duplicates.
    pub(crate) fn entries(&self, list: &ListSpec<'_>, id: &str, document: &Value) -> Result<Vec<Entry>> {
        let Value::Array(items) = document::field(document, list.list) else { return Ok(Vec::new()) };
        if items.len() > MAX_LIST_ELEMENTS {
            return Err(StoreError::Invalid(format!(
                "`{}` of document `{id}` of {} has {} elements; it may have at most {MAX_LIST_ELEMENTS}",
                list.list,
                self.name,
                items.len()
            )));
        }
        let fields = list.fields.iter().map(|field| field.key(id, document)).collect::<Result<Vec<_>>>()?;
        let values = items.iter().map(key::encode).collect::<Result<BTreeSet<_>>>()?;
        let longest = values.iter().map(Vec::len).max().unwrap_or_default();
        let bytes = longest + fields.iter().map(Vec::len).sum::<usize>();
        if bytes > MAX_INDEX_KEY_BYTES {
            return Err(self.too_long(id, &list.declared, bytes));
        }
        Ok(values.into_iter().map(|value| [vec![value], fields.clone()].concat()).collect())
    }

    fn too_long(&self, id: &str, declared: &str, bytes: usize) -> StoreError {
        StoreError::Invalid(format!(
            "{declared} of document `{id}` of {} takes {bytes} bytes in its index; at most {MAX_INDEX_KEY_BYTES} fit",
            self.name
        ))
    }

    /// The quoted column of a field; `None` if the field is not indexed.
    pub(crate) fn column(&self, field: &str) -> Option<String> {
        if field == "id" { Some("id".into()) } else { self.key_column(field, false) }
    }

    /// The quoted column of the lower-cased text of a field.
    pub(crate) fn lower_column(&self, field: &str) -> Option<String> {
        self.key_column(field, true)
    }

    fn key_column(&self, wanted: &str, case: bool) -> Option<String> {
        let is_match = |column: &&Column<'_>| match &column.content {
            ColumnContent::Key(field) => field.path == wanted && field.lower == case,
            ColumnContent::Exemption(_) => false,
        };
        self.columns.iter().find(is_match).map(|column| quote(&column.name))
    }

    /// The position of a quoted column among the index columns; `None` for the id.
    pub(crate) fn position_of(&self, quoted: &str) -> Option<usize> {
        self.columns.iter().position(|column| quote(&column.name) == quoted)
    }

    /// The error for a violated unique index.
    pub(crate) fn unique_violation(&self, index: &IndexSpec) -> StoreError {
        StoreError::AlreadyExists(format!("another document of {} has the same {}", self.name, index.declared))
    }

    pub(crate) fn not_found(&self, id: &str) -> StoreError {
        StoreError::NotFound(format!("`{id}` is not in {}", self.name))
    }

    pub(crate) fn already_exists(&self, id: &str) -> StoreError {
        StoreError::AlreadyExists(format!("`{id}` is already in {}", self.name))
    }

    /// The error for a failed guard or another version; `what` describes the state.
    pub(crate) fn conflict(&self, id: &str, what: &str) -> StoreError {
        StoreError::Conflict(format!("`{id}` of {} {what}", self.name))
    }

    pub(crate) fn too_many_matches(&self) -> StoreError {
        let most = crate::model::MAX_ROWS_AFFECTED;
        StoreError::Invalid(format!(
            "the write matches more than {most} documents of {}; narrow its filters",
            self.name
        ))
    }
}

impl<'d> IndexDecl<'d> {
    /// Parses one index of a [`Spec::declaration`]; `None` if it is not an index of this collection.
    fn parse(collection: &str, said: &'d str) -> Option<Self> {
        let (kind, rest) = said.split_at_checked(said.find([' ', '_'])? + 1)?;
        let inner = rest.strip_prefix(collection)?.strip_prefix('(')?.strip_suffix(')')?;
        let (each, fields) = match kind {
            "s_" => inner.split_once('/').map(|(list, fields)| (Some(list), fields))?,
            "ix " | "ux " => (None, inner),
            _ => return None,
        };
        let fields = fields.split(',').filter(|field| !field.is_empty()).collect();
        Some(Self { fields, unique: kind == "ux ", each })
    }
}

impl IndexSpec {
    pub(crate) fn create(&self, table: &str) -> String {
        let unique = if self.unique { "UNIQUE " } else { "" };
        format!("CREATE {unique}INDEX {} ON {table}({})", quote(&self.name), self.columns.join(", "))
    }
}

impl ListSpec<'_> {
    /// The SQLite statement that creates its table.
    pub(crate) fn create(&self) -> String {
        let columns = self.columns();
        let typed: String = columns.iter().map(|column| format!("{column} BLOB NOT NULL, ")).collect();
        format!(
            "CREATE TABLE {}({typed}id TEXT NOT NULL, rid INTEGER NOT NULL, PRIMARY KEY({}, id)) WITHOUT ROWID",
            self.table,
            columns.join(", ")
        )
    }

    /// The unquoted names of the list tables of a declaration.
    pub(crate) fn tables(declaration: &str) -> impl Iterator<Item = String> + '_ {
        declaration.split(';').filter(|said| said.starts_with("s_")).map(|said| shorten(said.to_owned()))
    }

    /// The names of the columns before the id.
    pub(crate) fn columns(&self) -> Vec<String> {
        std::iter::once("val".into()).chain((1..=self.fields.len()).map(|n| format!("k{n}"))).collect()
    }

    /// The position of a field; `None` if it is not among the fields.
    pub(crate) fn position_of(&self, field: &str) -> Option<usize> {
        self.fields.iter().position(|there| there.path == field && !there.lower)
    }
}

impl<'d> Field<'d> {
    fn new(text: &'d str) -> Result<Self> {
        let inner = text.strip_prefix("lower(").and_then(|rest| rest.strip_suffix(')'));
        let field = Self { path: inner.unwrap_or(text), lower: inner.is_some() };
        check_field(field.path)?;
        Ok(field)
    }

    fn is_id(&self) -> bool {
        self.path == "id" && !self.lower
    }

    fn column(&self) -> String {
        match self {
            _ if self.is_id() => "id".into(),
            Self { lower: true, path } => shorten(format!("l_{path}")),
            Self { lower: false, path } => shorten(format!("f_{path}")),
        }
    }

    fn key(&self, id: &str, document: &Value) -> Result<Vec<u8>> {
        match (self.path, self.lower) {
            ("id", false) => Ok(key::encode_text(id)),
            ("id", true) => Ok(key::encode_text(&id.to_lowercase())),
            (path, false) => key::encode(document::field(document, path)),
            (path, true) => Ok(key::encode_lowercase(document::field(document, path))),
        }
    }
}

impl ColumnContent<'_> {
    pub(crate) fn key_of(&self, id: &str, document: &Value) -> Result<Vec<u8>> {
        match self {
            Self::Key(field) => field.key(id, document),
            Self::Exemption(fields) => {
                for field in fields {
                    if field.key(id, document)? == key::NULL {
                        return Ok(id.as_bytes().to_vec());
                    }
                }
                Ok(Vec::new())
            }
        }
    }

    /// The type of the column, and its default until it is filled.
    pub(crate) fn column_type(&self, dialect: Dialect) -> String {
        let empty = match self {
            Self::Key(_) => key::NULL,
            Self::Exemption(_) => &[],
        };
        format!("{} NOT NULL DEFAULT {}", dialect.bytes_type(), dialect.bytes_literal(empty))
    }
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 48
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain {
        return Ok(());
    }
    Err(StoreError::Internal(format!("`{name}` cannot be the name of a collection")))
}

/// A name from a database, escaped for display: truncated, and without terminal control characters.
pub(crate) fn escape_name(name: &str) -> String {
    name.chars().take(100).collect::<String>().escape_debug().to_string()
}

/// Shortens a long name to its beginning and a hash of the whole (FNV-1a, 64 bits).
fn shorten(name: String) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{}~{hash:016x}", &name[..MAX_NAME_BYTES - 17])
}

/// Quotes a name. Names consist of declared names, so they contain neither quotes nor NUL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_declaration_is_read_as_it_was_written() {
        const INDEXES: &[Index] = &[
            Index::on(&["kind", "rank"]),
            Index::on(&["lower(name)", "id"]),
            Index::on(&["id", "some.very.long.path.whose.name.is.cut", "and.another.one.beside"]),
            Index::unique(&["slug"]),
            Index::unique(&["app", "lower(slug)"]),
            Index::each("readers", &[]),
            Index::each("place.tags", &["rank", "lower(name)"]),
        ];
        let declared = Spec::new(&Collection { name: "testSvcThings", indexes: INDEXES }).unwrap();
        let recorded = Spec::recorded("testSvcThings", &declared.declaration).unwrap();
        let made = |spec: &Spec<'_>| {
            let columns =
                spec.columns.iter().map(|one| format!("{} {}", one.name, one.content.column_type(Dialect::Sqlite)));
            let indexes = spec.indexes.iter().map(|one| one.create(&spec.table));
            columns.chain(indexes).chain(spec.lists.iter().map(ListSpec::create)).collect::<Vec<_>>()
        };
        assert_eq!(made(&recorded), made(&declared));
        assert!(Spec::recorded("testSvcThings", "").is_ok_and(|spec| spec.columns.is_empty()));
        for text in [
            "null",
            "ix other(a)",
            "ix testSvcThings()",
            "ix testSvcThings(a",
            "px testSvcThings(a)",
            ";",
            "ix testSvcThings(a,)",
            "ix testSvcThings(a b)",
            "s_testSvcThings(a)",
            "ix testSvcThings(a);ix testSvcThings(a)",
        ] {
            assert!(matches!(Spec::recorded("testSvcThings", text), Err(StoreError::Corrupt(_))), "{text}");
        }
        assert!(Spec::recorded("x\"; drop table y; --", "").is_err());
    }
}
