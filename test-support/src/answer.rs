//! Responses of the daemon. Every refusal must have a code that its operation declares; each response in the tests is
//! checked.

use openorch_api::{
    Operation,
    error::{access, gateway, platform, request},
};
use percent_encoding::percent_decode_str;
use reqwest::StatusCode;
use serde_json::Value;

pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The sentence of a refusal.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error in {}", self.text)).to_owned()
    }

    /// Panics if a refusal has no code, or one that the operation does not declare.
    pub fn check(&self, method: &str, path: &str) {
        let is_refusal = self.status.is_client_error() || self.status.is_server_error();
        // The HTTP library rejects malformed requests without a body, and such a response has no request id.
        let has_no_body = method == "HEAD" || self.text.is_empty() && !self.headers.contains_key("x-request-id");
        if !is_refusal || has_no_body {
            return;
        }
        let what = format!("{method} {path}: {} {}", self.status, self.text);
        let body = self.json();
        assert!(body["error"].as_str().is_some_and(|sentence| !sentence.is_empty()), "no error sentence: {what}");
        let code = openorch_api::errors().find(|code| body["code"] == code.id);
        let code = code.unwrap_or_else(|| panic!("no declared code: {what}"));
        assert_eq!(self.status, code.status, "{what}");
        let of_any = [request::ERRORS, access::ERRORS, platform::ERRORS].concat();
        let is_declared = match row(method, path) {
            Some(row) => row.may_return_error(code),
            None => of_any.contains(&code),
        };
        assert!(is_declared || gateway::ERRORS.contains(&code), "not declared by the operation: {what}");
    }
}

/// The token in the answer to a registration or sign-in.
pub fn token_of(answer: &Answer) -> String {
    answer.json()["token"]["token"].as_str().unwrap_or_else(|| panic!("no token in {}", answer.text)).to_owned()
}

/// The operation that a request addresses.
fn row(method: &str, path: &str) -> Option<&'static Operation> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let segments: Vec<_> = path.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect();
    let is_same = |pattern: &str| {
        let pattern: Vec<_> = pattern.split('/').collect();
        let fits = |(pattern, segment): (&&str, &std::borrow::Cow<str>)| {
            pattern.starts_with('{') && !segment.is_empty() || *pattern == segment.as_ref()
        };
        pattern.len() == segments.len() && pattern.iter().zip(&segments).all(fits)
    };
    let literal = openorch_api::operations().filter(|row| !row.path.contains('{'));
    let others = openorch_api::operations().filter(|row| row.path.contains('{'));
    literal.chain(others).find(|row| {
        row.method.as_str() == method && std::iter::once(&row.path).chain(row.aliases).any(|pattern| is_same(pattern))
    })
}
