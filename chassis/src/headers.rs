//! The header fields that a request's row declares, which are all that its handler sees of them.

use http::HeaderMap;
use openorch_api::{
    Row,
    header::{EXTENDED, Header},
};

/// Those that were sent, with their values as text; one that is no text is left out.
#[derive(Debug, Default)]
pub struct DeclaredHeaders(Vec<(&'static str, String)>);

impl DeclaredHeaders {
    pub fn of(row: &Row, sent: &HeaderMap) -> DeclaredHeaders {
        let value = |header: &Header| {
            let values: Vec<&str> = sent.get_all(header.name).iter().filter_map(|value| value.to_str().ok()).collect();
            // Several lines of one field are one list (RFC 9110, 5.3).
            (!values.is_empty()).then(|| values.join(", "))
        };
        DeclaredHeaders(row.reads.iter().filter_map(|header| Some((header.name, value(header)?))).collect())
    }

    /// Those of a call that is made in process by one that was, or was not, asked for extended answers.
    pub fn of_nested(row: &Row, is_extended: bool) -> DeclaredHeaders {
        let reads_it = row.reads.iter().any(|header| header.name == EXTENDED.name);
        let extended = (is_extended && reads_it).then(|| (EXTENDED.name, "1".to_owned()));
        DeclaredHeaders(extended.into_iter().collect())
    }

    pub fn get(&self, header: &Header) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == header.name).map(|(_, value)| value.as_str())
    }

    /// Whether answers may carry `extra` (decision "Closed answer types").
    pub fn is_extended(&self) -> bool {
        self.get(&EXTENDED) == Some("1")
    }
}
