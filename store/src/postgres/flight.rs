//! Pipelining: the request of a step, how it is sent without waiting for earlier responses, and the interpretation of
//! its response.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use deadpool_postgres::ClientWrapper;
use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row, RowStream, Statement};

use super::errors::Failure;
use super::statements::{Value, Writes, row_of, values_of};
use super::{Known, Matches, Place, Step};
use crate::StoreError;
use crate::sql::{Bind, CountPlan, count_refusal};

type Outcome<T> = std::result::Result<T, Failure>;

/// A request that was sent. Responses arrive in the order of the requests and must be awaited in that order.
pub(super) enum Sent<'a, T> {
    Waiting(Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>),
    Answered(Result<T, Error>),
}

impl<'a, T> Sent<'a, T> {
    /// Sends a request of tokio-postgres, which is sent by the first poll of its future.
    pub(super) async fn of(request: impl Future<Output = Result<T, Error>> + Send + 'a) -> Self {
        let mut request = Box::pin(request);
        match poll_fn(|context| Poll::Ready(request.as_mut().poll(context))).await {
            Poll::Ready(answer) => Self::Answered(answer),
            Poll::Pending => Self::Waiting(request),
        }
    }

    pub(super) async fn answer(self) -> Result<T, Error> {
        match self {
            Self::Waiting(request) => request.await,
            Self::Answered(answer) => answer,
        }
    }
}

/// The request of a step.
pub(super) struct Request<'a> {
    pub(super) sql: &'a str,
    values: Values<'a>,
}

enum Values<'a> {
    Own(Vec<Value<'a>>),
    Bound(&'a [Bind]),
}

impl<'a> Request<'a> {
    /// Builds the request of a step; `writes` selects the statements.
    pub(super) fn of(step: &'a Step, writes: fn(&Known) -> &Writes) -> Self {
        let own = |sql: &'a str, values| Self { sql, values: Values::Own(values) };
        let look = |place: &'a Place| own(&place.known.statements.version, vec![Value::id(&place.id)]);
        match step {
            Step::Create(document) => own(&writes(&document.place.known).create, values_of(document)),
            Step::Upsert(document) => own(&writes(&document.place.known).upsert, values_of(document)),
            Step::Replace(document, None) => own(&writes(&document.place.known).replace, values_of(document)),
            Step::Replace(document, Some(version)) => {
                let mut values = values_of(document);
                values.push(Value::version(*version));
                own(&writes(&document.place.known).replace_at, values)
            }
            Step::Delete(place, None) => own(&writes(&place.known).delete, vec![Value::id(&place.id)]),
            Step::Delete(place, Some(version)) => {
                own(&writes(&place.known).delete_at, vec![Value::id(&place.id), Value::version(*version)])
            }
            Step::ReplaceWhere(matches, _)
            | Step::UpsertWhere(matches, _, _)
            | Step::UpdateFields(matches, _)
            | Step::DeleteWhere(matches) => {
                Self { sql: &matches.plan.sql, values: Values::Bound(matches.plan.values()) }
            }
            Step::Absent(place) | Step::Exists(place) | Step::Version(place, _) => look(place),
            Step::Count { plan, .. } => Self { sql: &plan.sql, values: Values::Bound(plan.values()) },
        }
    }

    /// Sends the request.
    pub(super) async fn send<'s>(self, client: &'s ClientWrapper, statement: &'s Statement) -> Sent<'s, RowStream>
    where
        'a: 's,
    {
        match self.values {
            Values::Own(values) => Sent::of(client.query_raw(statement, values)).await,
            Values::Bound(values) => Sent::of(client.query_raw(statement, values)).await,
        }
    }
}

/// Whether a step writes a single document by its id.
pub(super) fn is_plain_write(step: &Step) -> bool {
    matches!(step, Step::Create(_) | Step::Upsert(_) | Step::Replace(..) | Step::Delete(..))
}

/// Whether the writes of a step depend on a query.
pub(super) fn is_by_filters(step: &Step) -> bool {
    matches!(step, Step::ReplaceWhere(..) | Step::UpsertWhere(..) | Step::UpdateFields(..) | Step::DeleteWhere(_))
}

/// The collection of a step.
pub(super) fn collection_of(step: &Step) -> &'static str {
    match step {
        Step::Create(document) | Step::Upsert(document) | Step::Replace(document, _) => document.place.known.spec.name,
        Step::Delete(place, _) | Step::Absent(place) | Step::Exists(place) | Step::Version(place, _) => {
            place.known.spec.name
        }
        Step::ReplaceWhere(matches, _)
        | Step::UpsertWhere(matches, _, _)
        | Step::UpdateFields(matches, _)
        | Step::DeleteWhere(matches) => matches.known.spec.name,
        Step::Count { plan, .. } => plan.spec.name,
    }
}

/// The result of a step.
#[derive(Default)]
pub(super) struct Answer {
    /// The number of documents written or removed.
    pub(super) touched: u64,
    /// The new version of the documents.
    pub(super) version: Option<u64>,
    /// The ids and bodies found by a step by filters, which still has to write them.
    pub(super) found: Vec<(String, Box<str>)>,
}

impl Answer {
    /// Awaits and interprets the response of a step; an error if the step fails.
    pub(super) async fn read(step: &Step, sent: Sent<'_, RowStream>) -> Outcome<Self> {
        let rows = match sent.answer().await {
            Ok(rows) => rows,
            Err(error) => return Err(refused(step, error)),
        };
        match step {
            Step::Count { plan, at_least, at_most } => {
                let count = count(plan, rows).await?;
                match count >= *at_least && count <= *at_most {
                    true => Ok(Self::default()),
                    false => Err(count_refusal(&plan.spec, count, *at_least, *at_most).into()),
                }
            }
            Step::ReplaceWhere(matches, _)
            | Step::UpsertWhere(matches, _, _)
            | Step::UpdateFields(matches, _)
            | Step::DeleteWhere(matches) => Ok(Self { found: found(matches, rows).await?, ..Self::default() }),
            _ => {
                let row = only(rows).await.map_err(|error| refused(step, error))?;
                Self::of_row(step, row.as_ref())
            }
        }
    }

    /// The result of a step with at most one row.
    fn of_row(step: &Step, row: Option<&Row>) -> Outcome<Self> {
        let number = |at: usize| -> Outcome<Option<u64>> {
            let Some(row) = row else { return Ok(None) };
            Ok(row.try_get::<_, Option<i64>>(at)?.map(i64::unsigned_abs))
        };
        let first = number(0)?;
        let written = Self { touched: 1, version: first, ..Self::default() };
        match step {
            Step::Absent(place) => place.must_be_absent(first)?,
            Step::Exists(place) => place.must_exist(first)?,
            Step::Version(place, wanted) => place.must_be_at(first, *wanted)?,
            _ if first.is_some() => return Ok(written),
            Step::Create(document) => return Err(document.place.taken().into()),
            Step::Replace(document, None) => return Err(document.place.missing().into()),
            Step::Delete(place, None) => return Err(place.missing().into()),
            Step::Replace(document, wanted) => document.place.expect(number(1)?, *wanted).map(|()| 0)?,
            Step::Delete(place, wanted) => place.expect(number(1)?, *wanted).map(|()| 0)?,
            _ => return Err(StoreError::Internal("a write returned no row".into()).into()),
        };
        Ok(Self::default())
    }
}

/// The only row of a response, if any. The response is read to its end, since an error may follow the row.
async fn only(rows: RowStream) -> Result<Option<Row>, Error> {
    let mut rows = pin!(rows);
    let mut only = None;
    while let Some(row) = rows.try_next().await? {
        only.get_or_insert(row);
    }
    Ok(only)
}

async fn count(plan: &CountPlan, rows: RowStream) -> Outcome<u64> {
    let mut rows = pin!(rows);
    let (mut count, mut more) = (0, true);
    while let Some(row) = rows.try_next().await? {
        if plan.is_counted_there() {
            count = row.try_get::<_, i64>(0)?.unsigned_abs();
        } else if more {
            more = plan.take(&row_of(&row)?, &mut count)?;
        }
    }
    Ok(count)
}

async fn found(matches: &Matches, rows: RowStream) -> Outcome<Vec<(String, Box<str>)>> {
    let mut rows = pin!(rows);
    let mut collector = matches.plan.collector();
    let mut more = true;
    while let Some(row) = rows.try_next().await? {
        more = more && collector.take(row_of(&row)?)?;
    }
    let page = collector.page()?;
    if page.next.is_some() {
        return Err(matches.known.spec.too_many_touched().into());
    }
    Ok(page.rows.into_iter().map(|row| (row.id, row.body)).collect())
}

/// Translates a unique violation. PostgreSQL checks unique indexes in the order of their creation, which is the order
/// of their declaration.
fn refused(step: &Step, error: Error) -> Failure {
    let Some(told) = error.as_db_error().filter(|told| *told.code() == SqlState::UNIQUE_VIOLATION) else {
        return error.into();
    };
    let (Step::Create(document) | Step::Upsert(document) | Step::Replace(document, _)) = step else {
        return error.into();
    };
    let spec = &document.place.known.spec;
    match spec.indexes.iter().find(|index| told.constraint() == Some(&*index.name)) {
        Some(index) => spec.taken(index).into(),
        None => document.place.taken().into(),
    }
}
