//! The header fields that an operation declares; its handler sees no others.

use http::HeaderMap;
use openorch_api::{
    Operation,
    header::{EXTENDED, Header},
};

/// The declared header fields of a request, except those whose values are not visible ASCII.
#[derive(Debug, Default)]
pub struct DeclaredHeaders(Vec<(&'static str, String)>);

impl DeclaredHeaders {
    /// Selects the declared fields of a request.
    pub fn of(row: &Operation, sent: &HeaderMap) -> DeclaredHeaders {
        let value = |header: &Header| {
            let values: Vec<&str> = sent.get_all(header.name).iter().filter_map(|value| value.to_str().ok()).collect();
            // Several lines of a field are one list (RFC 9110, 5.3).
            (!values.is_empty()).then(|| values.join(", "))
        };
        DeclaredHeaders(row.request_headers.iter().filter_map(|header| Some((header.name, value(header)?))).collect())
    }

    /// The headers of a call in process; `is_extended` says whether the calling request asked for extended answers.
    pub fn of_nested(row: &Operation, is_extended: bool) -> DeclaredHeaders {
        let reads_it = row.request_headers.iter().any(|header| header.name == EXTENDED.name);
        let extended = (is_extended && reads_it).then(|| (EXTENDED.name, "1".to_owned()));
        DeclaredHeaders(extended.into_iter().collect())
    }

    /// The value of a declared field; several lines of a field are joined by commas.
    pub fn get(&self, header: &Header) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == header.name).map(|(_, value)| value.as_str())
    }

    /// Whether answers may carry `extra` (decision "Closed answer types").
    pub fn is_extended(&self) -> bool {
        self.get(&EXTENDED) == Some("1")
    }
}
