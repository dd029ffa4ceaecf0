//! The client: sends one operation and reads its answer. Cheap to clone; clones share connections. Follows no redirect
//! (a token would go along) and tries again only what reads and was never sent.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use openorch_api::{Effect, Input, Op, Output, Parts, Row};
use url::Url;

use crate::{Error, target};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may stand still, not how long it may take: downloads are long.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Waits before further attempts at a read whose connection could not be opened.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(300)];
/// At most this many bytes of an unexpected answer are shown.
const SHOWN: usize = 120;

/// Makes clients of one server that share its connections.
#[derive(Clone, Debug)]
pub struct ClientFactory {
    client: Client,
}

/// Calls operations of one server as one caller.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    headers: HeaderMap,
}

/// The answer to a raw call.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status, of whatever kind.
    pub status: StatusCode,
    /// The headers as received.
    pub headers: HeaderMap,
    /// The whole body.
    pub bytes: Bytes,
}

impl ClientFactory {
    /// Clients of the server at `url`, for example `http://127.0.0.1:58231`. Connects to nothing yet.
    pub fn new(url: &str) -> Result<ClientFactory, Error> {
        let base = target::parse_base(url)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("openorch-sdk-rust/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if target::is_loopback(&base) {
            builder = builder.no_proxy();
            if base.scheme() == "http" {
                // Reading the system's roots costs milliseconds at every start of a program that needs none of them.
                builder = builder.tls_certs_only([]);
            }
        }
        let http = builder
            .build()
            .map_err(|error| Error::Invalid(format!("the HTTP client cannot start: {}", root_cause(&error))))?;
        let mut headers = HeaderMap::new();
        headers.insert(openorch_api::EXTENDED_HEADER, HeaderValue::from_static("1"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
        Ok(ClientFactory { client: Client { http, base, headers } })
    }

    /// A client that calls as nobody. Give it a token with [`Client::with_token`].
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

impl Client {
    /// The same client calling with this session's token.
    pub fn with_token(self, token: &str) -> Result<Client, Error> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| Error::Invalid("the token holds characters that no token has; sign in again".into()))?;
        value.set_sensitive(true);
        Ok(self.with_header_value(header::AUTHORIZATION, value))
    }

    /// The same client calling with the token of a request that a service has received, if that has one.
    ///
    /// The gateway puts a token there that says who the caller is and that this service alone may use.
    pub fn with_token_of(self, request: &HeaderMap) -> Client {
        match request.get(header::AUTHORIZATION) {
            Some(value) => {
                let mut value = value.clone();
                value.set_sensitive(true);
                self.with_header_value(header::AUTHORIZATION, value)
            }
            None => self.without_token(),
        }
    }

    /// The same client calling as nobody.
    pub fn without_token(mut self) -> Client {
        self.headers.remove(header::AUTHORIZATION);
        self
    }

    /// The same client sending one header more with every call.
    pub fn with_header(self, name: &str, value: &str) -> Result<Client, Error> {
        let name = HeaderName::try_from(name)
            .map_err(|_| Error::Invalid(format!("`{}` is not a header's name", name.escape_debug())))?;
        let value = HeaderValue::try_from(value)
            .map_err(|_| Error::Invalid(format!("the value of the header `{name}` cannot be sent")))?;
        Ok(self.with_header_value(name, value))
    }

    fn with_header_value(mut self, name: HeaderName, value: HeaderValue) -> Client {
        self.headers.insert(name, value);
        self
    }

    /// The address of the server.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Calls one operation of the contract.
    pub async fn call<I: Input, O: Output>(&self, operation: Op<I, O>, input: I) -> Result<O, Error> {
        let mut parts = Parts::default();
        input.encode(&mut parts);
        let answer = self.call_row(operation.row, &parts).await?;
        O::decode(&answer.bytes).map_err(|error| {
            let reason = match describe_foreign(&answer) {
                Some(foreign) => foreign,
                None => format!("its body cannot be read: {error}"),
            };
            unexpected(operation.row.id.into(), &answer, reason)
        })
    }

    /// Calls one operation whose parts are already taken together, and answers its success. For folds over the table.
    pub async fn call_row(&self, row: &'static Row, parts: &Parts) -> Result<Response, Error> {
        let path = target::path_and_query(row, parts)?;
        let url = target::raw_url(&self.base, &path)?;
        let body = match &parts.body {
            Some(body) => {
                Some(serde_json::to_vec(body).map_err(|error| Error::Invalid(format!("{}: {error}", row.id)))?)
            }
            None => None,
        };
        let method = match row.method {
            openorch_api::Method::Get => Method::GET,
            openorch_api::Method::Post => Method::POST,
            openorch_api::Method::Put => Method::PUT,
            openorch_api::Method::Delete => Method::DELETE,
        };
        let body = body.map(Bytes::from);
        let mut waits = RETRY_AFTER.iter();
        loop {
            match self.send(row.id.into(), method.clone(), url.clone(), body.clone()).await {
                Err(Error::Unreachable { was_sent: false, .. }) if row.effect() == Effect::Read && waits.len() > 0 => {
                    tokio::time::sleep(waits.next().copied().unwrap_or_default()).await;
                }
                sent => return success(row.id.into(), sent?),
            }
        }
    }

    /// Sends any request to the server, also to services behind its gateway, and answers whatever comes back.
    ///
    /// `path_and_query` is sent as it is written, for example `/skeleton-svc/hello?name=x`; a body is sent as JSON.
    pub async fn request(&self, method: Method, path_and_query: &str, body: Option<Bytes>) -> Result<Response, Error> {
        let url = target::raw_url(&self.base, path_and_query)?;
        let operation = format!("{method} {}", url.path());
        self.send(operation.into(), method, url, body).await
    }

    async fn send(
        &self,
        operation: Cow<'static, str>,
        method: Method,
        url: Url,
        body: Option<Bytes>,
    ) -> Result<Response, Error> {
        let mut request = self.http.request(method, url).headers(self.headers.clone());
        if let Some(body) = body {
            if !self.headers.contains_key(header::CONTENT_TYPE) {
                request = request.header(header::CONTENT_TYPE, "application/json");
            }
            request = request.body(body);
        }
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_builder() => return Err(Error::Invalid(root_cause(&error))),
            Err(error) => {
                let was_sent = !error.is_connect();
                let reason = if !error.is_timeout() {
                    root_cause(&error)
                } else if was_sent {
                    format!("nothing came for {} s", SILENCE_TIMEOUT.as_secs())
                } else {
                    format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())
                };
                return Err(Error::Unreachable { operation, url: self.url().to_owned(), reason, was_sent });
            }
        };
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        match answer.bytes().await {
            Ok(bytes) => Ok(Response { status, headers, bytes }),
            Err(error) => {
                let answer = Response { status, headers, bytes: Bytes::new() };
                Err(unexpected(operation, &answer, format!("it was cut: {}", root_cause(&error))))
            }
        }
    }
}

// Written by hand so that a token never lands in a log through `{:?}`.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has_token = self.headers.contains_key(header::AUTHORIZATION);
        f.debug_struct("Client").field("url", &self.url()).field("has_token", &has_token).finish()
    }
}

impl Response {
    /// Under this id the call stands in the server's log.
    pub fn request_id(&self) -> Option<&str> {
        self.headers.get("x-request-id")?.to_str().ok()
    }

    /// The server's sentence, if this is a refusal in the platform's form, `{"error": "…"}`.
    pub fn refusal(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.bytes).ok()?;
        Some(body.get("error")?.as_str()?.to_owned())
    }
}

fn success(operation: Cow<'static, str>, answer: Response) -> Result<Response, Error> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    if !answer.status.is_client_error() && !answer.status.is_server_error() {
        let reason = match answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()) {
            Some(to) => format!("it points to `{to}`; give the server's own address"),
            None => "it is neither a success nor a refusal".into(),
        };
        return Err(unexpected(operation, &answer, reason));
    }
    let message = match answer.refusal() {
        Some(message) => message,
        // Refusals that the HTTP library makes before there is a request have no body.
        None if answer.bytes.is_empty() => {
            answer.status.canonical_reason().unwrap_or("refused without a reason").into()
        }
        None => {
            let reason = describe_foreign(&answer).unwrap_or_else(|| "its refusal has no `error`".into());
            return Err(unexpected(operation, &answer, reason));
        }
    };
    let request_id = answer.request_id().map(str::to_owned);
    Err(Error::Refused { operation, status: answer.status.as_u16(), message, request_id })
}

fn unexpected(operation: Cow<'static, str>, answer: &Response, reason: String) -> Error {
    let request_id = answer.request_id().map(str::to_owned);
    Error::Unexpected { operation, status: answer.status.as_u16(), reason, request_id }
}

/// What a body is that is not JSON at all.
fn describe_foreign(answer: &Response) -> Option<String> {
    let text = String::from_utf8_lossy(&answer.bytes[..answer.bytes.len().min(SHOWN)]);
    let text = text.trim();
    match text.chars().next() {
        None => Some("its body is empty".into()),
        Some('<') => Some("it is a page of HTML; is there another program at this address?".into()),
        Some('{' | '[' | '"') => None,
        Some(_) => Some(format!("it says `{}`", text.escape_debug())),
    }
}

/// The last link of an error's chain: the first ones say only that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
