//! What the SQL engines share: how a declared collection becomes tables (`spec.rs`), how filters become conditions
//! (`condition.rs`), and how a query is answered (`plan.rs`). What differs between them is in [`Dialect`]. Values are
//! always bound; the only names in the text of SQL are those of declarations in code.

mod condition;
mod plan;
mod spec;

pub(crate) use condition::{Bind, Conditions};
pub(crate) use plan::{CountPlan, Plan, count_refusal};
pub(crate) use spec::{Column, Entry, ListSpec, Spec, list_table, quote};

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
