//! Trace context propagation with the `traceparent` header (W3C Trace Context, level 1). Does not export spans.

use std::{
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The `sampled` bit of the trace flags.
const SAMPLED: u8 = 1;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// A span of a distributed trace. Calls of a [`Client`](crate::Client) within [`scope`](TraceContext::scope) propagate it.
///
/// ```
/// use openorch_sdk::{TraceContext, http::HeaderMap};
///
/// let mut incoming = HeaderMap::new();
/// incoming.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?);
/// let span = TraceContext::from_headers(&incoming).expect("it is well formed");
/// assert_eq!(span.trace_id(), "0af7651916cd43dd8448eb211c80319c");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
    /// The `tracestate` header, which is forwarded unchanged.
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// The root span of a new trace.
    ///
    /// ```
    /// use openorch_sdk::TraceContext;
    /// assert_ne!(TraceContext::new_trace().trace_id(), TraceContext::new_trace().trace_id());
    /// ```
    pub fn new_trace() -> TraceContext {
        let trace = u128::from(random()) << 64 | u128::from(random());
        TraceContext { trace, span: random(), flags: SAMPLED, state: None }
    }

    /// The span of a received request; `None` if it has no valid `traceparent`.
    ///
    /// ```
    /// use openorch_sdk::{TraceContext, http::HeaderMap};
    /// assert_eq!(TraceContext::from_headers(&HeaderMap::new()), None);
    /// ```
    pub fn from_headers(headers: &HeaderMap) -> Option<TraceContext> {
        let (trace, span, flags) = parse(headers.get(TRACEPARENT)?.to_str().ok()?)?;
        Some(TraceContext { trace, span, flags, state: headers.get(TRACESTATE).cloned() })
    }

    /// A child span in the same trace.
    ///
    /// ```
    /// use openorch_sdk::TraceContext;
    /// let first = TraceContext::new_trace();
    /// assert_eq!(first.child().trace_id(), first.trace_id());
    /// assert_ne!(first.child(), first);
    /// ```
    pub fn child(&self) -> TraceContext {
        TraceContext { span: random(), ..self.clone() }
    }

    /// The trace id: 32 hex digits.
    ///
    /// ```
    /// assert_eq!(openorch_sdk::TraceContext::new_trace().trace_id().len(), 32);
    /// ```
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The current span, within [`scope`](Self::scope). Spawned tasks do not inherit it.
    ///
    /// ```
    /// assert_eq!(openorch_sdk::TraceContext::current(), None);
    /// ```
    pub fn current() -> Option<TraceContext> {
        CURRENT.try_with(TraceContext::clone).ok()
    }

    /// Runs `work` with this span as the current one.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use openorch_sdk::TraceContext;
    /// let span = TraceContext::new_trace();
    /// let seen = span.clone().scope(async { TraceContext::current() }).await;
    /// assert_eq!(seen, Some(span));
    /// # });
    /// ```
    pub async fn scope<W: Future>(self, work: W) -> W::Output {
        CURRENT.scope(self, work).await
    }

    /// Adds the trace headers, unless the request already has them.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        if headers.contains_key(TRACEPARENT) {
            return;
        }
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(TRACEPARENT, value);
            if let Some(state) = &self.state {
                headers.insert(TRACESTATE, state.clone());
            }
        }
    }
}

/// The value of the `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

fn parse(text: &str) -> Option<(u128, u64, u8)> {
    let mut parts = text.split('-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let span = u64::try_from(hex(parts.next()?, 16)?).ok()?;
    let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
    // Later versions may have more fields, version 0 may not, and version `ff` is invalid.
    let is_supported = version != 0xff && (version != 0 || parts.next().is_none());
    (is_supported && trace != 0 && span != 0).then_some((trace, span, flags))
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok())?
}

/// A random number, not suitable for secrets. Never 0, which is an invalid span id.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_not_well_formed_names_no_trace() {
        for (text, known) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
            ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0af7-b7ad6b7169203331-01", false),
            ("", false),
        ] {
            assert_eq!(parse(text).is_some(), known, "{text}");
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, text.parse().unwrap());
            if let Some(step) = TraceContext::from_headers(&headers) {
                assert_eq!(step.to_string()[3..55], text[3..55]);
            }
        }
    }
}
