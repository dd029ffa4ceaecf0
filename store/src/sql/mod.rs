//! Code shared by the SQL engines: the tables of a declared collection (`spec.rs`) and their migration
//! (`migration.rs`), conditions from filters (`condition.rs`), query plans (`plan.rs`), and validated writes
//! (`prepared_write.rs`). The differences between the engines are in [`Dialect`]. Values are always bound; the only
//! names in SQL text are those of declarations in code.

mod condition;
pub(crate) mod migration;
mod plan;
mod prepared_write;
mod spec;

pub(crate) use condition::{Bind, Conditions};
pub(crate) use plan::{CountPlan, Plan, count_guard_error};
pub(crate) use prepared_write::{
    Body, Collections, DocRef, MatchingDocs, OpenCollection, PreparedDocument, PreparedWrite,
};
pub(crate) use spec::{Column, Entry, IndexSpec, ListSpec, Spec, check_name, escape_name, quote};

use crate::{Result, StoreError};

/// A random database id: 32 hex digits.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        StoreError::Unavailable(format!("the operating system returned no random numbers: {error}"))
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The SQL dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The placeholder of the nth bound value, from 1.
    pub(crate) fn placeholder(self, number: usize) -> String {
        match self {
            Self::Sqlite => format!("?{number}"),
            Self::Postgres => format!("${number}"),
        }
    }

    /// The type of a key column.
    pub(crate) fn bytes_type(self) -> &'static str {
        match self {
            Self::Sqlite => "BLOB",
            Self::Postgres => "bytea",
        }
    }

    /// A byte string literal.
    pub(crate) fn bytes_literal(self, bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sqlite => format!("x'{hex}'"),
            Self::Postgres => format!("'\\x{hex}'::bytea"),
        }
    }
}
