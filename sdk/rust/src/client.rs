//! The client: sends an operation and reads its response. Cheap to clone; clones share connections. It does not follow
//! redirects, which would leak the token, and retries only reads and calls with an idempotency key.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use openorch_api::{
    Effect, Events, Idempotency, Input, Op, Operation, Output, RequestParts,
    events::{EVENT_STREAM, Event},
};
use url::Url;

use crate::{
    Error, EventStream, TraceContext,
    response::{Response, StreamingResponse, describe_non_json, into_success, root_cause, unexpected},
    retry,
    session::Session,
    target,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time between two reads of a response; a long download may take longer in total.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Default maximum size of a response that is read into memory.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Creates clients of one server that share a connection pool. Two factories share nothing.
///
/// ```
/// use openorch_sdk::ClientFactory;
///
/// let factory = ClientFactory::new("http://127.0.0.1:58231")?;
/// let anonymous = factory.client();
/// let signed_in = factory.client().with_token("eyJ…the.token")?;
/// # Ok::<(), openorch_sdk::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientFactory {
    client: Client,
}

/// Calls operations of one server as one caller.
///
/// Reads are retried at most twice and within ten seconds if the server is unreachable or returns 429, 502, 503 or 504;
/// `Retry-After` is respected. So are operations that store their response under an `Idempotency-Key`
/// (`x-repeat: keyed`), which the client sends. Other writes are never retried.
///
/// Timeouts: five seconds to connect and sixty seconds between two reads of the response;
/// [`with_timeout`](Client::with_timeout) limits the whole call. A response may have at most 64 MiB, which
/// [`with_max_response_bytes`](Client::with_max_response_bytes) changes.
///
/// ```no_run
/// use openorch_sdk::{ClientFactory, api::{Json, user::READ_USER_BY_TOKEN}};
///
/// # async fn example() -> Result<(), openorch_sdk::Error> {
/// let client = ClientFactory::new("http://127.0.0.1:58231")?.client().with_token("eyJ…the.token")?;
/// let Json(me) = client.call(READ_USER_BY_TOKEN, ()).await?;
/// println!("I am {}", me.user.slug);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    headers: HeaderMap,
    timeout: Option<Duration>,
    max_response_bytes: usize,
    /// Maximum time without received data.
    read_timeout: Duration,
    /// The session of a service, whose token changes when it signs in again; otherwise the token is in `headers`.
    session: Option<Arc<Session>>,
}

impl ClientFactory {
    /// A factory for clients of the server at `url`, for example `http://127.0.0.1:58231`. Does not connect yet.
    ///
    /// ```
    /// use openorch_sdk::ClientFactory;
    /// assert!(ClientFactory::new("https://openorch.example").is_ok());
    /// assert!(ClientFactory::new("openorch.example").is_err());
    /// ```
    pub fn new(url: &str) -> Result<ClientFactory, Error> {
        let base = target::parse_base(url)?;
        let http = http_client(&base, READ_TIMEOUT)?;
        let mut headers = HeaderMap::new();
        headers.insert(openorch_api::header::EXTENDED.name, HeaderValue::from_static("1"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
        Ok(ClientFactory {
            client: Client {
                http,
                base,
                headers,
                timeout: None,
                max_response_bytes: MAX_RESPONSE_BYTES,
                read_timeout: READ_TIMEOUT,
                session: None,
            },
        })
    }

    /// An anonymous client. Set a token with [`Client::with_token`].
    ///
    /// ```
    /// let factory = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?;
    /// assert_eq!(factory.client().url(), "http://127.0.0.1:58231");
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

/// Builds the underlying HTTP client for a server.
fn http_client(base: &Url, silence: Duration) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("openorch-sdk-rust/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(silence)
        .redirect(reqwest::redirect::Policy::none());
    if target::is_loopback(base) {
        builder = builder.no_proxy();
        if base.scheme() == "http" {
            // Loading the system's root certificates takes milliseconds at every start and is not needed here.
            builder = builder.tls_certs_only([]);
        }
    }
    builder.build().map_err(|error| Error::Invalid(format!("cannot create the HTTP client: {}", root_cause(&error))))
}

/// The `Authorization` header value of a token.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| Error::Invalid("the token contains invalid characters; sign in again".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Client {
    /// The same client with this session token.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// assert!(client.clone().with_token("eyJ…the.token").is_ok());
    /// assert!(client.with_token("two\nlines").is_err());
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn with_token(self, token: &str) -> Result<Client, Error> {
        Ok(self.without_token().with_header_value(header::AUTHORIZATION, bearer(token)?))
    }

    /// The same client with the token of a request that a service has received; anonymous if the request has none.
    ///
    /// The gateway replaces the caller's token by one that identifies the caller and is valid for this service only.
    ///
    /// ```
    /// use openorch_sdk::{ClientFactory, http::HeaderMap};
    ///
    /// fn client_of(incoming: &HeaderMap, factory: &ClientFactory) -> openorch_sdk::Client {
    ///     factory.client().with_forwarded_token(incoming)
    /// }
    /// # client_of(&HeaderMap::new(), &ClientFactory::new("http://127.0.0.1:58231").unwrap());
    /// ```
    pub fn with_forwarded_token(self, request: &HeaderMap) -> Client {
        let client = self.without_token();
        match request.get(header::AUTHORIZATION) {
            Some(value) => {
                let mut value = value.clone();
                value.set_sensitive(true);
                client.with_header_value(header::AUTHORIZATION, value)
            }
            None => client,
        }
    }

    /// The same client without a token.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client().with_token("t0k")?;
    /// assert!(format!("{:?}", client.without_token()).contains("has_token: false"));
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn without_token(mut self) -> Client {
        self.headers.remove(header::AUTHORIZATION);
        self.session = None;
        self
    }

    /// The same client with an additional header for every call.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// let client = client.with_header("X-Shop", "berlin")?;
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn with_header(self, name: &str, value: &str) -> Result<Client, Error> {
        let name = HeaderName::try_from(name)
            .map_err(|_| Error::Invalid(format!("`{}` is not a valid header name", name.escape_debug())))?;
        let value = HeaderValue::try_from(value)
            .map_err(|_| Error::Invalid(format!("the value of the header `{name}` is invalid")))?;
        Ok(self.with_header_value(name, value))
    }

    /// The same client for the server at another URL, for example a specific node. Keeps the token and the headers.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://10.0.0.5:58231")?.client();
    /// assert_eq!(client.with_url("http://10.0.0.6:58231")?.url(), "http://10.0.0.6:58231");
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn with_url(mut self, url: &str) -> Result<Client, Error> {
        let base = target::parse_base(url)?;
        // The connection pool is shared if the new URL needs the same proxy and TLS settings.
        let kind = |url: &Url| (target::is_loopback(url), url.scheme() == "http");
        if kind(&base) != kind(&self.base) {
            self.http = http_client(&base, self.read_timeout)?;
        }
        self.base = base;
        Ok(self)
    }

    /// The same client with a timeout for a whole call, including retries and the delays between them.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// let client = client.with_timeout(Duration::from_millis(500));
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn with_timeout(mut self, limit: Duration) -> Client {
        self.timeout = Some(limit);
        self
    }

    /// The same client with another read timeout than one minute, for operations that take long on the server. It opens new
    /// connections.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// let client = client.with_read_timeout(Duration::from_secs(3600))?;
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn with_read_timeout(mut self, limit: Duration) -> Result<Client, Error> {
        self.http = http_client(&self.base, limit)?;
        self.read_timeout = limit;
        Ok(self)
    }

    /// The same client with another maximum response size than 64 MiB. Does not apply to a [`stream`](Client::stream) that is
    /// read in chunks.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// let client = client.with_max_response_bytes(1 << 20);
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn with_max_response_bytes(mut self, bytes: usize) -> Client {
        self.max_response_bytes = bytes;
        self
    }

    /// Sets the timeout unless the client already has one.
    pub(crate) fn with_default_timeout(mut self, limit: Duration) -> Client {
        self.timeout.get_or_insert(limit);
        self
    }

    pub(crate) fn with_session(mut self, session: Session) -> Client {
        self.headers.remove(header::AUTHORIZATION);
        self.session = Some(Arc::new(session));
        self
    }

    fn with_header_value(mut self, name: HeaderName, value: HeaderValue) -> Client {
        self.headers.insert(name, value);
        self
    }

    /// The URL of the server, without a trailing slash.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231/")?.client();
    /// assert_eq!(client.url(), "http://127.0.0.1:58231");
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The headers of every call. The token is marked as sensitive; the token of a service, which may change, is not
    /// included.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// assert!(client.headers().contains_key("accept"));
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The full URL of a raw call. Fails where [`request`](Self::request) fails.
    ///
    /// ```
    /// let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:58231")?.client();
    /// assert_eq!(client.url_for("/health")?, "http://127.0.0.1:58231/health");
    /// assert!(client.url_for("/a/../health").is_err());
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn url_for(&self, path_and_query: &str) -> Result<String, Error> {
        Ok(target::raw_url(&self.base, path_and_query)?.into())
    }

    /// Calls an operation.
    ///
    /// ```no_run
    /// use openorch_sdk::{Client, Error, api::{Body, Json, registry::{LIST_NODES, ListNodesRequest}}};
    ///
    /// async fn count_nodes(client: &Client) -> Result<usize, Error> {
    ///     let Json(answer) = client.call(LIST_NODES, Body(ListNodesRequest::default())).await?;
    ///     Ok(answer.nodes.len())
    /// }
    /// ```
    pub async fn call<I: Input, O: Output>(&self, operation: Op<I, O>, input: I) -> Result<O, Error> {
        let mut parts = RequestParts::default();
        input.encode(&mut parts);
        let answer = self.call_operation(operation.row, &parts).await?;
        O::decode(&answer.bytes).map_err(|error| {
            let reason = match describe_non_json(&answer) {
                Some(foreign) => foreign,
                None => format!("the body is not valid: {error}"),
            };
            unexpected(operation.row.id.into(), &answer, reason)
        })
    }

    /// Calls an operation with untyped request parts; returns its successful response. For generic code over the table of
    /// operations.
    ///
    /// ```no_run
    /// use openorch_sdk::{Client, Error, Response, api};
    ///
    /// /// Any operation that takes no input, by its id.
    /// async fn by_name(client: &Client, id: &str) -> Option<Result<Response, Error>> {
    ///     let row = api::operations().find(|row| row.id == id)?;
    ///     Some(client.call_operation(row, &api::RequestParts::default()).await)
    /// }
    /// ```
    pub async fn call_operation(&self, row: &'static Operation, parts: &RequestParts) -> Result<Response, Error> {
        let call = self.build_call(row, parts)?;
        let may_retry = call.key.is_some() || row.effect() == Effect::Read;
        let mut answer = self.within_timeout(&call, self.send_with_retries(&call, may_retry)).await?;
        if call.key.is_some() && retry::cannot_store_response(&answer) {
            // The caller did not ask for a key: send the call without it, and without retries.
            let call = Call { key: None, ..call.clone() };
            answer = self.within_timeout(&call, self.send_with_retries(&call, false)).await?;
        }
        into_success(call.operation, answer)
    }

    /// Opens the event stream of an operation. Returns when the stream is open, or an error if the server rejects it.
    ///
    /// ```no_run
    /// use openorch_sdk::{
    ///     Client, Error, EventStream,
    ///     api::{Query, platform::{MONITOR_REQUESTS, MonitorRequestsRequest, RequestSeen}},
    /// };
    ///
    /// async fn requests_to(client: &Client, service: &str) -> Result<EventStream<RequestSeen>, Error> {
    ///     let asked = MonitorRequestsRequest { service: Some(service.into()), ..Default::default() };
    ///     client.events(MONITOR_REQUESTS, Query(asked)).await
    /// }
    /// ```
    pub async fn events<I: Input, T: Event>(
        &self,
        operation: Op<I, Events<T>>,
        input: I,
    ) -> Result<EventStream<T>, Error> {
        let mut parts = RequestParts::default();
        input.encode(&mut parts);
        let call = self.build_call(operation.row, &parts)?;
        let client = self.clone().with_header_value(header::ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        EventStream::open(client, call).await
    }

    /// Sends the call and checks that the response is an event stream.
    pub(crate) async fn open_event_stream(&self, call: &Call) -> Result<StreamingResponse, Error> {
        let answer = self.within_timeout(call, self.send_authenticated(call)).await?;
        let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if answer.status.is_success() && kind.starts_with(EVENT_STREAM) {
            return Ok(answer);
        }
        let answer = into_success(call.operation.clone(), answer.read_to_end().await?)?;
        Err(unexpected(call.operation.clone(), &answer, "it is not an event stream".into()))
    }

    fn build_call(&self, row: &'static Operation, parts: &RequestParts) -> Result<Call, Error> {
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
        let is_keyed = row.idempotency() == Idempotency::Keyed;
        let key = if is_keyed { retry::new_idempotency_key() } else { None };
        Ok(Call { operation: row.id.into(), method, url, body: body.map(Bytes::from), key })
    }

    /// Sends a raw request to the server or to a service behind its gateway, without retries, and returns the response
    /// whatever its status.
    ///
    /// `path_and_query` is sent as is, for example `/skeleton-svc/hello?name=x`; a body is sent as JSON.
    ///
    /// ```no_run
    /// use openorch_sdk::{Client, Error, http::Method};
    ///
    /// async fn greet(client: &Client) -> Result<String, Error> {
    ///     let answer = client.request(Method::GET, "/skeleton-svc/hello", None).await?;
    ///     Ok(String::from_utf8_lossy(&answer.bytes).into_owned())
    /// }
    /// ```
    pub async fn request(&self, method: Method, path_and_query: &str, body: Option<Bytes>) -> Result<Response, Error> {
        let call = self.raw_call(method, path_and_query, body)?;
        self.within_timeout(&call, self.send_with_retries(&call, false)).await
    }

    /// Like [`request`](Self::request), but returns as soon as the response headers arrive, for long bodies.
    ///
    /// ```no_run
    /// use openorch_sdk::{Client, Error, http::Method};
    ///
    /// async fn size_of(client: &Client, path: &str) -> Result<usize, Error> {
    ///     let mut answer = client.stream(Method::GET, path, None).await?;
    ///     let mut size = 0;
    ///     while let Some(piece) = answer.chunk().await? {
    ///         size += piece.len();
    ///     }
    ///     Ok(size)
    /// }
    /// ```
    pub async fn stream(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<StreamingResponse, Error> {
        let call = self.raw_call(method, path_and_query, body)?;
        self.within_timeout(&call, self.send_authenticated(&call)).await
    }

    fn raw_call(&self, method: Method, path_and_query: &str, body: Option<Bytes>) -> Result<Call, Error> {
        let url = target::raw_url(&self.base, path_and_query)?;
        Ok(Call { operation: format!("{method} {}", url.path()).into(), method, url, body, key: None })
    }

    async fn within_timeout<T>(
        &self,
        call: &Call,
        sending: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(limit) = self.timeout else { return sending.await };
        tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| {
            let reason = format!("timed out after {} ms", limit.as_millis());
            Err(self.unreachable(call, reason, true))
        })
    }

    async fn send_with_retries(&self, call: &Call, may_repeat: bool) -> Result<Response, Error> {
        let (started, mut retries) = (Instant::now(), 0);
        loop {
            let outcome = match self.send_authenticated(call).await {
                Ok(answer) => answer.read_to_end().await,
                Err(error) => Err(error),
            };
            let pause = may_repeat.then(|| retry::retry_delay(&outcome, retries, started.elapsed())).flatten();
            let Some(pause) = pause else { return outcome };
            tokio::time::sleep(pause).await;
            retries += 1;
        }
    }

    /// Sends the call. If the session of a service has ended, signs in again and repeats the call.
    async fn send_authenticated(&self, call: &Call) -> Result<StreamingResponse, Error> {
        let Some(session) = &self.session else { return self.send(call, None).await };
        let token = session.token();
        let answer = self.send(call, Some(&token)).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        match session.sign_in_again(&token).await {
            Some(fresh) => self.send(call, Some(&fresh)).await,
            None => Ok(answer),
        }
    }

    async fn send(&self, call: &Call, token: Option<&HeaderValue>) -> Result<StreamingResponse, Error> {
        let mut headers = self.headers.clone();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        if call.body.is_some() && !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(key) = &call.key {
            headers.insert(openorch_api::header::IDEMPOTENCY_KEY.name, key.clone());
        }
        if let Some(trace) = TraceContext::current() {
            trace.child().inject(&mut headers);
        }
        let mut request = self.http.request(call.method.clone(), call.url.clone()).headers(headers);
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_builder() => return Err(Error::Invalid(root_cause(&error))),
            Err(error) => {
                let was_sent = !error.is_connect();
                let reason = if !error.is_timeout() {
                    root_cause(&error)
                } else if was_sent {
                    format!("no data received for {} s", self.read_timeout.as_secs())
                } else {
                    format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())
                };
                return Err(self.unreachable(call, reason, was_sent));
            }
        };
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        Ok(StreamingResponse {
            status,
            headers,
            body: answer,
            operation: call.operation.clone(),
            limit: self.max_response_bytes,
        })
    }

    fn unreachable(&self, call: &Call, reason: String, was_sent: bool) -> Error {
        Error::Unreachable { operation: call.operation.clone(), url: self.url().to_owned(), reason, was_sent }
    }
}

/// A request, the same for each attempt.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) operation: Cow<'static, str>,
    method: Method,
    url: Url,
    body: Option<Bytes>,
    /// The value of the header `Idempotency-Key`.
    key: Option<HeaderValue>,
}

// Not derived, so that `{:?}` never logs a token.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has_token = self.session.is_some() || self.headers.contains_key(header::AUTHORIZATION);
        f.debug_struct("Client").field("url", &self.url()).field("has_token", &has_token).finish()
    }
}
