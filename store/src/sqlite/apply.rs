//! Executes a batch, and each of its steps, on the writer's connection.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, OptionalExtension, params_from_iter};
use serde_json::Value;

use super::errors::from_sqlite;
use super::run;
use super::schema::{Statements, change_entry};
use super::writer::Writer;
use crate::sql::{self, Body, Entry, count_refusal};
use crate::{Committed, Result, StoreError, document};

pub(super) type Step = sql::Step<Statements>;
type Place = sql::Place<Statements>;
type Document = sql::Document<Statements>;
type Matches = sql::Matches<Statements>;

impl Writer {
    /// Applies a batch within the transaction. A batch of a single document write needs no savepoint, because only its
    /// first statement can be refused. If it fails later nevertheless, as on a full disk, it is partly written: then
    /// this returns `None`, and the transaction must be rolled back.
    pub(super) fn apply(&mut self, steps: &[Step]) -> Option<Result<Committed>> {
        let [step @ (Step::Create(_) | Step::Upsert(_) | Step::Replace(..) | Step::Delete(..))] = steps else {
            return Some(self.apply_apart(steps));
        };
        let (version, changes) = (self.last_version + 1, self.connection.total_changes());
        match self.step(step, version) {
            Ok(touched) => Some(Ok(self.applied(version, vec![touched]))),
            Err(error) if self.connection.total_changes() == changes || self.connection.is_autocommit() => {
                Some(Err(error))
            }
            Err(_) => None,
        }
    }

    /// Applies a batch within the transaction, in a savepoint of its own, so that a failure leaves nothing.
    pub(super) fn apply_apart(&mut self, steps: &[Step]) -> Result<Committed> {
        self.run("SAVEPOINT batch")?;
        let version = self.last_version + 1;
        let outcome = steps.iter().map(|step| self.step(step, version)).collect::<Result<Vec<_>>>();
        if self.connection.is_autocommit() {
            return outcome.map(|touched| Committed { version, touched });
        }
        match outcome {
            Ok(touched) => {
                self.run("RELEASE batch")?;
                Ok(self.applied(version, touched))
            }
            Err(error) => match self.run("ROLLBACK TO batch").and_then(|()| self.run("RELEASE batch")) {
                Ok(()) => Err(error),
                Err(worse) => {
                    self.roll_back();
                    Err(worse)
                }
            },
        }
    }

    fn applied(&mut self, version: u64, touched: Vec<u64>) -> Committed {
        if touched.iter().all(|touched| *touched == 0) {
            return Committed { version: 0, touched };
        }
        self.last_version = version;
        Committed { version, touched }
    }

    /// Executes a step; returns the number of documents changed.
    fn step(&self, step: &Step, version: u64) -> Result<u64> {
        match step {
            Step::Create(document) => self.create(document, version).map(|()| 1),
            Step::Upsert(document) => self.upsert(document, version).map(|()| 1),
            Step::Replace(document, wanted) => {
                self.expect_version(&document.place, *wanted)?;
                if self.replace(document, version)? { Ok(1) } else { Err(document.place.missing()) }
            }
            Step::Delete(place, wanted) => {
                self.expect_version(place, *wanted)?;
                if self.delete(place)? { Ok(1) } else { Err(place.missing()) }
            }
            Step::ReplaceWhere(matches, body) => self.replace_where(matches, body, version),
            Step::UpsertWhere(matches, document, body) => match self.replace_where(matches, body, version)? {
                0 => self.create(document, version).map(|()| 1),
                touched => Ok(touched),
            },
            Step::UpdateFields(matches, fields) => self.update_fields(matches, fields, version),
            Step::DeleteWhere(matches) => {
                let found = self.matching(matches)?;
                for (id, _) in &found {
                    self.delete(&Place { known: matches.known.clone(), id: id.clone() })?;
                }
                Ok(found.len() as u64)
            }
            Step::Absent(place) => place.must_be_absent(self.version(place)?),
            Step::Exists(place) => place.must_exist(self.version(place)?),
            Step::Version(place, wanted) => place.must_be_at(self.version(place)?, *wanted),
            Step::Count { plan, at_least, at_most } => {
                let count = run::count(plan, &self.connection)?;
                if count >= *at_least && count <= *at_most {
                    return Ok(0);
                }
                Err(count_refusal(&plan.spec, count, *at_least, *at_most))
            }
        }
    }

    fn create(&self, document: &Document, version: u64) -> Result<()> {
        let place = &document.place;
        match self.put(&place.known.statements.insert, document, version) {
            Ok(_) => self.change_entries(place, self.connection.last_insert_rowid(), &[], &document.entries),
            // A duplicate document violates every unique index; the id is the most useful error.
            Err(StoreError::AlreadyExists(_)) if self.version(place)?.is_some() => Err(place.taken()),
            Err(error) => Err(error),
        }
    }

    /// Not ON CONFLICT: for a row that violates two unique indexes, the result would depend on which is checked first.
    fn upsert(&self, document: &Document, version: u64) -> Result<()> {
        if self.replace(document, version)? { Ok(()) } else { self.create(document, version) }
    }

    /// Replaces a document; returns whether it existed.
    fn replace(&self, document: &Document, version: u64) -> Result<bool> {
        let place = &document.place;
        let old = self.old_entries(place)?;
        if self.put(&place.known.statements.update, document, version)? == 0 {
            return Ok(false);
        }
        if let Some((rid, old)) = old {
            self.change_entries(place, rid, &old, &document.entries)?;
        }
        Ok(true)
    }

    fn delete(&self, place: &Place) -> Result<bool> {
        if let Some((rid, old)) = self.old_entries(place)? {
            self.change_entries(place, rid, &old, &[])?;
        }
        let deleted = self.cached(&place.known.statements.delete).and_then(|mut s| s.execute([&place.id]));
        deleted.map(|rows| rows > 0).map_err(|error| failed(place, error))
    }

    fn replace_where(&self, matches: &Matches, body: &Body, version: u64) -> Result<u64> {
        let found = self.matching(matches)?;
        for (id, _) in &found {
            let document = Document::new(matches.known.clone(), id.clone(), body.text.clone(), &body.value)?;
            self.replace(&document, version)?;
        }
        Ok(found.len() as u64)
    }

    fn update_fields(&self, matches: &Matches, fields: &[(String, Value)], version: u64) -> Result<u64> {
        let found = self.matching(matches)?;
        for (id, body) in &found {
            let name = matches.known.spec.name;
            let (text, value) = document::with_fields(body, fields, self.document_limit, name, id)?;
            self.replace(&Document::new(matches.known.clone(), id.clone(), text, &value)?, version)?;
        }
        Ok(found.len() as u64)
    }

    /// The ids and bodies of the matching documents.
    fn matching(&self, matches: &Matches) -> Result<Vec<(String, Box<str>)>> {
        let mut collector = matches.plan.collector();
        run::each(&self.connection, &matches.plan, |row| collector.take(row))?;
        let page = collector.page()?;
        if page.next.is_some() {
            return Err(matches.known.spec.too_many_touched());
        }
        Ok(page.rows.into_iter().map(|row| (row.id, row.body)).collect())
    }

    /// The current list entries of a document and its rowid; `None` if the collection has no lists or the document does
    /// not exist. Entries can only be deleted by their keys, which are derived from the old document.
    fn old_entries(&self, place: &Place) -> Result<Option<(i64, Vec<Vec<Entry>>)>> {
        let spec = &place.known.spec;
        if spec.lists.is_empty() {
            return Ok(None);
        }
        let found = self.cached(&place.known.statements.old).and_then(|mut statement| {
            statement.query_row([&place.id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).optional()
        });
        let Some((rid, body)) = found.map_err(|error| failed(place, error))? else { return Ok(None) };
        let value = document::parse_stored(&body, spec.name, &place.id)?;
        Ok(Some((rid, place.known.entries(&place.id, &value)?)))
    }

    /// Updates the list entries of a document.
    fn change_entries(&self, place: &Place, rid: i64, old: &[Vec<Entry>], new: &[Vec<Entry>]) -> Result<()> {
        let none = Vec::new();
        for (at, (add, remove)) in place.known.statements.lists.iter().enumerate() {
            let (old, new) = (old.get(at).unwrap_or(&none), new.get(at).unwrap_or(&none));
            // Entries are sorted, so binary search works.
            let gone = old.iter().filter(|entry| new.binary_search(entry).is_err());
            let come = new.iter().filter(|entry| old.binary_search(entry).is_err());
            let changed = gone
                .map(|entry| (remove, entry, None))
                .chain(come.map(|entry| (add, entry, Some(rid))))
                .try_for_each(|(sql, entry, rid)| {
                    self.cached(sql).and_then(|mut s| change_entry(&mut s, entry, &place.id, rid)).map(drop)
                });
            changed.map_err(|error| failed(place, error))?;
        }
        Ok(())
    }

    /// Executes an insert or update; returns the number of rows changed.
    fn put(&self, sql: &str, document: &Document, version: u64) -> Result<usize> {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        let place = &document.place;
        let head = [ValueRef::from(&*place.id), ValueRef::Integer(version), ValueRef::from(&*document.body)];
        let keys = document.keys.iter().map(|key| ValueRef::Blob(key));
        let values = head.into_iter().chain(keys).map(ToSqlOutput::Borrowed);
        match self.cached(sql).and_then(|mut s| s.execute(params_from_iter(values))) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(self.broken_by(document)?)
            }
            done => done.map_err(|error| failed(place, error)),
        }
    }

    /// The first declared unique index that a document violates. SQLite names the one it checked first, which depends
    /// on the order in which the indexes were created.
    fn broken_by(&self, document: &Document) -> Result<StoreError> {
        let Place { known, id } = &document.place;
        for index in known.spec.indexes.iter().filter(|index| index.unique) {
            let mut sql = format!("SELECT 1 FROM {} WHERE id <> ?", known.spec.table);
            let mut values = vec![ValueRef::from(&**id)];
            for column in &index.columns {
                sql += &format!(" AND {column} = ?");
                values.push(match known.spec.place_of(column) {
                    Some(place) => ValueRef::Blob(&document.keys[place]),
                    None => ValueRef::from(&**id),
                });
            }
            let values = values.into_iter().map(ToSqlOutput::Borrowed);
            let found = self.connection.prepare(&sql).and_then(|mut s| s.exists(params_from_iter(values)));
            if found.map_err(|error| failed(&document.place, error))? {
                return Ok(known.spec.taken(index));
            }
        }
        Ok(document.place.taken())
    }

    fn expect_version(&self, place: &Place, wanted: Option<u64>) -> Result<()> {
        if wanted.is_none() { Ok(()) } else { place.expect(self.version(place)?, wanted) }
    }

    fn version(&self, place: &Place) -> Result<Option<u64>> {
        let found = self
            .cached(&place.known.statements.version)
            .and_then(|mut s| s.query_row([&place.id], |row| row.get::<_, i64>(0)).optional());
        Ok(found.map_err(|error| failed(place, error))?.map(i64::unsigned_abs))
    }
}

fn failed(place: &Place, error: rusqlite::Error) -> StoreError {
    from_sqlite(error, &format!("writing to {}", place.known.spec.name))
}
