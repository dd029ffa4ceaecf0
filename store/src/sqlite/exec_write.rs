//! Executes a batch, and each of its steps, on the writer's connection.

use rusqlite::{
    ErrorCode, OptionalExtension, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};
use serde_json::Value;

use super::{
    errors::from_sqlite,
    exec_query,
    schema::{Statements, change_entry},
    writer::Writer,
};
use crate::{
    Committed, Result, StoreError, document,
    sql::{self, Body, Entry, count_guard_error},
};

pub(super) type PreparedWrite = sql::PreparedWrite<Statements>;
type DocRef = sql::DocRef<Statements>;
type PreparedDocument = sql::PreparedDocument<Statements>;
type MatchingDocs = sql::MatchingDocs<Statements>;

impl Writer {
    /// Applies a batch within the transaction. A batch of a single document write needs no savepoint, because only its
    /// first statement can be refused. If it fails later nevertheless, as on a full disk, it is partly written: then
    /// this returns `None`, and the transaction must be rolled back.
    pub(super) fn apply(&mut self, steps: &[PreparedWrite]) -> Option<Result<Committed>> {
        let [
            step @ (PreparedWrite::Create(_)
            | PreparedWrite::Upsert(_)
            | PreparedWrite::Replace(..)
            | PreparedWrite::Delete(..)),
        ] = steps
        else {
            return Some(self.apply_in_savepoint(steps));
        };
        let (version, changes) = (self.last_version + 1, self.connection.total_changes());
        match self.execute_step(step, version) {
            Ok(touched) => Some(Ok(self.finish_batch(version, vec![touched]))),
            Err(error) if self.connection.total_changes() == changes || self.connection.is_autocommit() => {
                Some(Err(error))
            }
            Err(_) => None,
        }
    }

    /// Applies a batch within the transaction, in a savepoint of its own, so that a failure leaves nothing.
    pub(super) fn apply_in_savepoint(&mut self, steps: &[PreparedWrite]) -> Result<Committed> {
        self.execute("SAVEPOINT batch")?;
        let version = self.last_version + 1;
        let outcome = steps.iter().map(|step| self.execute_step(step, version)).collect::<Result<Vec<_>>>();
        if self.connection.is_autocommit() {
            return outcome.map(|touched| Committed { version, rows_affected: touched });
        }
        match outcome {
            Ok(touched) => {
                self.execute("RELEASE batch")?;
                Ok(self.finish_batch(version, touched))
            }
            Err(error) => match self.execute("ROLLBACK TO batch").and_then(|()| self.execute("RELEASE batch")) {
                Ok(()) => Err(error),
                Err(worse) => {
                    self.roll_back();
                    Err(worse)
                }
            },
        }
    }

    fn finish_batch(&mut self, version: u64, touched: Vec<u64>) -> Committed {
        if touched.iter().all(|touched| *touched == 0) {
            return Committed { version: 0, rows_affected: touched };
        }
        self.last_version = version;
        Committed { version, rows_affected: touched }
    }

    /// Executes a step; returns the number of documents changed.
    fn execute_step(&self, step: &PreparedWrite, version: u64) -> Result<u64> {
        match step {
            PreparedWrite::Create(document) => self.create(document, version).map(|()| 1),
            PreparedWrite::Upsert(document) => self.upsert(document, version).map(|()| 1),
            PreparedWrite::Replace(document, wanted) => {
                self.expect_version(&document.doc_ref, *wanted)?;
                if self.replace(document, version)? { Ok(1) } else { Err(document.doc_ref.not_found()) }
            }
            PreparedWrite::Delete(place, wanted) => {
                self.expect_version(place, *wanted)?;
                if self.delete(place)? { Ok(1) } else { Err(place.not_found()) }
            }
            PreparedWrite::ReplaceWhere(matches, body) => self.replace_where(matches, body, version),
            PreparedWrite::UpsertWhere(matches, document, body) => match self.replace_where(matches, body, version)? {
                0 => self.create(document, version).map(|()| 1),
                touched => Ok(touched),
            },
            PreparedWrite::UpdateFields(matches, fields) => self.update_fields(matches, fields, version),
            PreparedWrite::DeleteWhere(matches) => {
                let found = self.find_matches(matches)?;
                for (id, _) in &found {
                    self.delete(&DocRef { known: matches.known.clone(), id: id.clone() })?;
                }
                Ok(found.len() as u64)
            }
            PreparedWrite::Absent(place) => place.must_be_absent(self.version(place)?),
            PreparedWrite::Exists(place) => place.must_exist(self.version(place)?),
            PreparedWrite::Version(place, wanted) => place.must_be_at(self.version(place)?, *wanted),
            PreparedWrite::Count { plan, at_least, at_most } => {
                let count = exec_query::count(plan, &self.connection)?;
                if count >= *at_least && count <= *at_most {
                    return Ok(0);
                }
                Err(count_guard_error(&plan.spec, count, *at_least, *at_most))
            }
        }
    }

    fn create(&self, document: &PreparedDocument, version: u64) -> Result<()> {
        let place = &document.doc_ref;
        match self.execute_write(&place.known.statements.insert, document, version) {
            Ok(_) => self.change_entries(place, self.connection.last_insert_rowid(), &[], &document.entries),
            // A duplicate document violates every unique index; the id is the most useful error.
            Err(StoreError::AlreadyExists(_)) if self.version(place)?.is_some() => Err(place.already_exists()),
            Err(error) => Err(error),
        }
    }

    /// Not ON CONFLICT: for a row that violates two unique indexes, the result would depend on which is checked first.
    fn upsert(&self, document: &PreparedDocument, version: u64) -> Result<()> {
        if self.replace(document, version)? { Ok(()) } else { self.create(document, version) }
    }

    /// Replaces a document; returns whether it existed.
    fn replace(&self, document: &PreparedDocument, version: u64) -> Result<bool> {
        let place = &document.doc_ref;
        let old = self.old_entries(place)?;
        if self.execute_write(&place.known.statements.update, document, version)? == 0 {
            return Ok(false);
        }
        if let Some((rid, old)) = old {
            self.change_entries(place, rid, &old, &document.entries)?;
        }
        Ok(true)
    }

    fn delete(&self, place: &DocRef) -> Result<bool> {
        if let Some((rid, old)) = self.old_entries(place)? {
            self.change_entries(place, rid, &old, &[])?;
        }
        let deleted = self.cached(&place.known.statements.delete).and_then(|mut s| s.execute([&place.id]));
        deleted.map(|rows| rows > 0).map_err(|error| write_error(place, error))
    }

    fn replace_where(&self, matches: &MatchingDocs, body: &Body, version: u64) -> Result<u64> {
        let found = self.find_matches(matches)?;
        for (id, _) in &found {
            let document = PreparedDocument::new(matches.known.clone(), id.clone(), body.text.clone(), &body.value)?;
            self.replace(&document, version)?;
        }
        Ok(found.len() as u64)
    }

    fn update_fields(&self, matches: &MatchingDocs, fields: &[(String, Value)], version: u64) -> Result<u64> {
        let found = self.find_matches(matches)?;
        for (id, body) in &found {
            let name = matches.known.spec.name;
            let (text, value) = document::with_fields(body, fields, self.document_limit, name, id)?;
            self.replace(&PreparedDocument::new(matches.known.clone(), id.clone(), text, &value)?, version)?;
        }
        Ok(found.len() as u64)
    }

    /// The ids and bodies of the matching documents.
    fn find_matches(&self, matches: &MatchingDocs) -> Result<Vec<(String, Box<str>)>> {
        let mut collector = matches.plan.collector();
        exec_query::for_each_row(&self.connection, &matches.plan, |row| collector.push(row))?;
        let page = collector.page()?;
        if page.next.is_some() {
            return Err(matches.known.spec.too_many_matches());
        }
        Ok(page.rows.into_iter().map(|row| (row.id, row.body)).collect())
    }

    /// The current list entries of a document and its rowid; `None` if the collection has no lists or the document does
    /// not exist. Entries can only be deleted by their keys, which are derived from the old document.
    fn old_entries(&self, place: &DocRef) -> Result<Option<(i64, Vec<Vec<Entry>>)>> {
        let spec = &place.known.spec;
        if spec.lists.is_empty() {
            return Ok(None);
        }
        let found = self.cached(&place.known.statements.rowid_and_doc).and_then(|mut statement| {
            statement.query_row([&place.id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).optional()
        });
        let Some((rid, body)) = found.map_err(|error| write_error(place, error))? else { return Ok(None) };
        let value = document::parse_stored(&body, spec.name, &place.id)?;
        Ok(Some((rid, place.known.entries(&place.id, &value)?)))
    }

    /// Updates the list entries of a document.
    fn change_entries(&self, place: &DocRef, rid: i64, old: &[Vec<Entry>], new: &[Vec<Entry>]) -> Result<()> {
        let none = Vec::new();
        for (at, (add, remove)) in place.known.statements.lists.iter().enumerate() {
            let (old, new) = (old.get(at).unwrap_or(&none), new.get(at).unwrap_or(&none));
            // Entries are sorted, so binary search works.
            let removed = old.iter().filter(|entry| new.binary_search(entry).is_err());
            let inserted = new.iter().filter(|entry| old.binary_search(entry).is_err());
            let changed = removed
                .map(|entry| (remove, entry, None))
                .chain(inserted.map(|entry| (add, entry, Some(rid))))
                .try_for_each(|(sql, entry, rid)| {
                    self.cached(sql).and_then(|mut s| change_entry(&mut s, entry, &place.id, rid)).map(drop)
                });
            changed.map_err(|error| write_error(place, error))?;
        }
        Ok(())
    }

    /// Executes an insert or update; returns the number of rows changed.
    fn execute_write(&self, sql: &str, document: &PreparedDocument, version: u64) -> Result<usize> {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        let place = &document.doc_ref;
        let head = [ValueRef::from(&*place.id), ValueRef::Integer(version), ValueRef::from(&*document.body)];
        let keys = document.keys.iter().map(|key| ValueRef::Blob(key));
        let values = head.into_iter().chain(keys).map(ToSqlOutput::Borrowed);
        match self.cached(sql).and_then(|mut s| s.execute(params_from_iter(values))) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(self.find_unique_violation(document)?)
            }
            done => done.map_err(|error| write_error(place, error)),
        }
    }

    /// The first declared unique index that a document violates. SQLite names the one it checked first, which depends
    /// on the order in which the indexes were created.
    fn find_unique_violation(&self, document: &PreparedDocument) -> Result<StoreError> {
        let DocRef { known, id } = &document.doc_ref;
        for index in known.spec.indexes.iter().filter(|index| index.unique) {
            let mut sql = format!("SELECT 1 FROM {} WHERE id <> ?", known.spec.table);
            let mut values = vec![ValueRef::from(&**id)];
            for column in &index.columns {
                sql += &format!(" AND {column} = ?");
                values.push(match known.spec.position_of(column) {
                    Some(place) => ValueRef::Blob(&document.keys[place]),
                    None => ValueRef::from(&**id),
                });
            }
            let values = values.into_iter().map(ToSqlOutput::Borrowed);
            let found = self.connection.prepare(&sql).and_then(|mut s| s.exists(params_from_iter(values)));
            if found.map_err(|error| write_error(&document.doc_ref, error))? {
                return Ok(known.spec.unique_violation(index));
            }
        }
        Ok(document.doc_ref.already_exists())
    }

    fn expect_version(&self, place: &DocRef, wanted: Option<u64>) -> Result<()> {
        if wanted.is_none() { Ok(()) } else { place.check_version(self.version(place)?, wanted) }
    }

    fn version(&self, place: &DocRef) -> Result<Option<u64>> {
        let found = self
            .cached(&place.known.statements.version)
            .and_then(|mut s| s.query_row([&place.id], |row| row.get::<_, i64>(0)).optional());
        Ok(found.map_err(|error| write_error(place, error))?.map(i64::unsigned_abs))
    }
}

fn write_error(place: &DocRef, error: rusqlite::Error) -> StoreError {
    from_sqlite(error, &format!("writing to {}", place.known.spec.name))
}
