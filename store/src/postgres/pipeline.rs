//! Pipelining: the request of a step, how it is sent without waiting for earlier responses, and the interpretation of
//! its response.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use deadpool_postgres::ClientWrapper;
use futures_util::TryStreamExt;
use tokio_postgres::{Error, Row, RowStream, Statement, error::SqlState};

use super::{
    DocRef, MatchingDocs, OpenCollection, PreparedWrite,
    errors::PgError,
    statements::{Param, Writes, params_of, row_of},
};
use crate::{
    StoreError,
    sql::{Bind, CountPlan, count_guard_error},
};

type Outcome<T> = std::result::Result<T, PgError>;

/// A request that was sent. Responses arrive in the order of the requests and must be awaited in that order.
pub(super) enum PendingResponse<'a, T> {
    Pending(Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>),
    Ready(Result<T, Error>),
}

impl<'a, T> PendingResponse<'a, T> {
    /// Sends a request of tokio-postgres, which is sent by the first poll of its future.
    pub(super) async fn send(request: impl Future<Output = Result<T, Error>> + Send + 'a) -> Self {
        let mut request = Box::pin(request);
        match poll_fn(|context| Poll::Ready(request.as_mut().poll(context))).await {
            Poll::Ready(answer) => Self::Ready(answer),
            Poll::Pending => Self::Pending(request),
        }
    }

    pub(super) async fn response(self) -> Result<T, Error> {
        match self {
            Self::Pending(request) => request.await,
            Self::Ready(answer) => answer,
        }
    }
}

/// The request of a step.
pub(super) struct Request<'a> {
    pub(super) sql: &'a str,
    values: Params<'a>,
}

enum Params<'a> {
    Own(Vec<Param<'a>>),
    Bound(&'a [Bind]),
}

impl<'a> Request<'a> {
    /// Builds the request of a step; `writes` selects the statements.
    pub(super) fn of(step: &'a PreparedWrite, writes: fn(&OpenCollection) -> &Writes) -> Self {
        let own = |sql: &'a str, values| Self { sql, values: Params::Own(values) };
        let look = |place: &'a DocRef| own(&place.known.statements.version, vec![Param::id(&place.id)]);
        match step {
            PreparedWrite::Create(document) => own(&writes(&document.doc_ref.known).create, params_of(document)),
            PreparedWrite::Upsert(document) => own(&writes(&document.doc_ref.known).upsert, params_of(document)),
            PreparedWrite::Replace(document, None) => {
                own(&writes(&document.doc_ref.known).replace, params_of(document))
            }
            PreparedWrite::Replace(document, Some(version)) => {
                let mut values = params_of(document);
                values.push(Param::version(*version));
                own(&writes(&document.doc_ref.known).replace_at, values)
            }
            PreparedWrite::Delete(place, None) => own(&writes(&place.known).delete, vec![Param::id(&place.id)]),
            PreparedWrite::Delete(place, Some(version)) => {
                own(&writes(&place.known).delete_at, vec![Param::id(&place.id), Param::version(*version)])
            }
            PreparedWrite::ReplaceWhere(matches, _)
            | PreparedWrite::UpsertWhere(matches, _, _)
            | PreparedWrite::UpdateFields(matches, _)
            | PreparedWrite::DeleteWhere(matches) => {
                Self { sql: &matches.plan.sql, values: Params::Bound(matches.plan.values()) }
            }
            PreparedWrite::Absent(place) | PreparedWrite::Exists(place) | PreparedWrite::Version(place, _) => {
                look(place)
            }
            PreparedWrite::Count { plan, .. } => Self { sql: &plan.sql, values: Params::Bound(plan.values()) },
        }
    }

    /// Sends the request.
    pub(super) async fn send<'s>(
        self,
        client: &'s ClientWrapper,
        statement: &'s Statement,
    ) -> PendingResponse<'s, RowStream>
    where
        'a: 's,
    {
        match self.values {
            Params::Own(values) => PendingResponse::send(client.query_raw(statement, values)).await,
            Params::Bound(values) => PendingResponse::send(client.query_raw(statement, values)).await,
        }
    }
}

/// Whether a step writes a single document by its id.
pub(super) fn is_plain_write(step: &PreparedWrite) -> bool {
    matches!(
        step,
        PreparedWrite::Create(_) | PreparedWrite::Upsert(_) | PreparedWrite::Replace(..) | PreparedWrite::Delete(..)
    )
}

/// Whether the writes of a step depend on a query.
pub(super) fn is_by_filters(step: &PreparedWrite) -> bool {
    matches!(
        step,
        PreparedWrite::ReplaceWhere(..)
            | PreparedWrite::UpsertWhere(..)
            | PreparedWrite::UpdateFields(..)
            | PreparedWrite::DeleteWhere(_)
    )
}

/// The collection of a step.
pub(super) fn collection_of(step: &PreparedWrite) -> &'static str {
    match step {
        PreparedWrite::Create(document) | PreparedWrite::Upsert(document) | PreparedWrite::Replace(document, _) => {
            document.doc_ref.known.spec.name
        }
        PreparedWrite::Delete(place, _)
        | PreparedWrite::Absent(place)
        | PreparedWrite::Exists(place)
        | PreparedWrite::Version(place, _) => place.known.spec.name,
        PreparedWrite::ReplaceWhere(matches, _)
        | PreparedWrite::UpsertWhere(matches, _, _)
        | PreparedWrite::UpdateFields(matches, _)
        | PreparedWrite::DeleteWhere(matches) => matches.known.spec.name,
        PreparedWrite::Count { plan, .. } => plan.spec.name,
    }
}

/// The result of a step.
#[derive(Default)]
pub(super) struct StepResult {
    /// The number of documents written or removed.
    pub(super) rows_affected: u64,
    /// The new version of the documents.
    pub(super) version: Option<u64>,
    /// The ids and bodies found by a step by filters, which still has to write them.
    pub(super) found: Vec<(String, Box<str>)>,
}

impl StepResult {
    /// Awaits and interprets the response of a step; an error if the step fails.
    pub(super) async fn read(step: &PreparedWrite, sent: PendingResponse<'_, RowStream>) -> Outcome<Self> {
        let rows = match sent.response().await {
            Ok(rows) => rows,
            Err(error) => return Err(unique_violation(step, error)),
        };
        match step {
            PreparedWrite::Count { plan, at_least, at_most } => {
                let count = count(plan, rows).await?;
                match count >= *at_least && count <= *at_most {
                    true => Ok(Self::default()),
                    false => Err(count_guard_error(&plan.spec, count, *at_least, *at_most).into()),
                }
            }
            PreparedWrite::ReplaceWhere(matches, _)
            | PreparedWrite::UpsertWhere(matches, _, _)
            | PreparedWrite::UpdateFields(matches, _)
            | PreparedWrite::DeleteWhere(matches) => Ok(Self { found: found(matches, rows).await?, ..Self::default() }),
            _ => {
                let row = single_row(rows).await.map_err(|error| unique_violation(step, error))?;
                Self::of_row(step, row.as_ref())
            }
        }
    }

    /// The result of a step with at most one row.
    fn of_row(step: &PreparedWrite, row: Option<&Row>) -> Outcome<Self> {
        let number = |at: usize| -> Outcome<Option<u64>> {
            let Some(row) = row else { return Ok(None) };
            Ok(row.try_get::<_, Option<i64>>(at)?.map(i64::unsigned_abs))
        };
        let first = number(0)?;
        let written = Self { rows_affected: 1, version: first, ..Self::default() };
        match step {
            PreparedWrite::Absent(place) => place.must_be_absent(first)?,
            PreparedWrite::Exists(place) => place.must_exist(first)?,
            PreparedWrite::Version(place, wanted) => place.must_be_at(first, *wanted)?,
            _ if first.is_some() => return Ok(written),
            PreparedWrite::Create(document) => return Err(document.doc_ref.already_exists().into()),
            PreparedWrite::Replace(document, None) => return Err(document.doc_ref.not_found().into()),
            PreparedWrite::Delete(place, None) => return Err(place.not_found().into()),
            PreparedWrite::Replace(document, wanted) => {
                document.doc_ref.check_version(number(1)?, *wanted).map(|()| 0)?
            }
            PreparedWrite::Delete(place, wanted) => place.check_version(number(1)?, *wanted).map(|()| 0)?,
            _ => return Err(StoreError::Internal("a write returned no row".into()).into()),
        };
        Ok(Self::default())
    }
}

/// The only row of a response, if any. The response is read to its end, since an error may follow the row.
async fn single_row(rows: RowStream) -> Result<Option<Row>, Error> {
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
        if plan.is_counted_in_sql() {
            count = row.try_get::<_, i64>(0)?.unsigned_abs();
        } else if more {
            more = plan.count_row(&row_of(&row)?, &mut count)?;
        }
    }
    Ok(count)
}

async fn found(matches: &MatchingDocs, rows: RowStream) -> Outcome<Vec<(String, Box<str>)>> {
    let mut rows = pin!(rows);
    let mut collector = matches.plan.collector();
    let mut more = true;
    while let Some(row) = rows.try_next().await? {
        more = more && collector.push(row_of(&row)?)?;
    }
    let page = collector.page()?;
    if page.next.is_some() {
        return Err(matches.known.spec.too_many_matches().into());
    }
    Ok(page.rows.into_iter().map(|row| (row.id, row.body)).collect())
}

/// Translates a unique violation. PostgreSQL checks unique indexes in the order of their creation, which is the order
/// of their declaration.
fn unique_violation(step: &PreparedWrite, error: Error) -> PgError {
    let Some(told) = error.as_db_error().filter(|told| *told.code() == SqlState::UNIQUE_VIOLATION) else {
        return error.into();
    };
    let (PreparedWrite::Create(document) | PreparedWrite::Upsert(document) | PreparedWrite::Replace(document, _)) =
        step
    else {
        return error.into();
    };
    let spec = &document.doc_ref.known.spec;
    match spec.indexes.iter().find(|index| told.constraint() == Some(&*index.name)) {
        Some(index) => spec.unique_violation(index).into(),
        None => document.doc_ref.already_exists().into(),
    }
}
