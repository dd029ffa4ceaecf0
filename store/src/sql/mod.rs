//! What the SQL engines share: how a declared collection becomes tables (`spec.rs`) and what has to change for it
//! (`change.rs`), how filters become conditions (`condition.rs`), how a query is answered (`plan.rs`), and what a write
//! is before it is executed (`step.rs`). What differs between them is in [`Dialect`]. Values are always bound; the only
//! names in the text of SQL are those of declarations in code.

pub(crate) mod change;
mod condition;
mod plan;
mod spec;
mod step;

pub(crate) use condition::{Bind, Conditions};
pub(crate) use plan::{CountPlan, Plan, count_refusal};
pub(crate) use spec::{Column, Entry, IndexSpec, ListSpec, Spec, check_name, quote, shown};
pub(crate) use step::{Body, Collections, Document, Known, Matches, Place, Step};

use crate::{Result, StoreError};

/// A name for a new database: 32 hex digits.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| StoreError::Unavailable(format!("the system gives no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Which SQL is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The mark of the nth value, from 1.
    pub(crate) fn mark(self, number: usize) -> String {
        match self {
            Self::Sqlite => format!("?{number}"),
            Self::Postgres => format!("${number}"),
        }
    }

    /// The type of a column of keys.
    pub(crate) fn bytes(self) -> &'static str {
        match self {
            Self::Sqlite => "BLOB",
            Self::Postgres => "bytea",
        }
    }

    /// A literal of bytes.
    pub(crate) fn literal(self, bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sqlite => format!("x'{hex}'"),
            Self::Postgres => format!("'\\x{hex}'::bytea"),
        }
    }
}
