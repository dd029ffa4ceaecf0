//! The proxy: forwards a request to an instance and returns its response (decision "Forwarding"). This is
//! the hot path: avoid allocations.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts,
    uri::PathAndQuery,
};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::TrySendError,
    ext::on_informational,
    upgrade::{self, OnUpgrade},
};
use openorch_chassis::{
    ClientBody, Credential, ForwardedAuth,
    codes::{access, gateway as codes},
    forwarded::RequestId,
    outbound::DialError,
};

use crate::{
    Gateway, balance,
    body::{self, ContinueGate, PooledConn, RequestBody, RequestBodyError, UpstreamBody},
    connection::Connection,
    headers::{self, VIA},
    pool::{Upstream, UpstreamConn},
    refusal::{Refusal, display_slug},
    request_log::RequestRecord,
    routing_table::ServiceRoutes,
    tunnel,
};

/// How long the head of a chunked response is delayed for its first chunk, which usually arrives with the head. An event
/// stream may send it later.
const FIRST_CHUNK_TIMEOUT: Duration = Duration::from_millis(20);

/// Time for idle connections to close before another one is opened.
const CLOSE_DELAY: Duration = Duration::from_millis(10);

/// Maximum attempts to connect for a request, which has not been sent yet.
const MAX_DIALS: usize = 3;

/// A response of an instance; it has no body after an upgrade.
pub type UpstreamResponse = Response<Option<UpstreamBody>>;

pub async fn forward(
    running: &body::RequestGuard,
    mut request: Request<ClientBody>,
    slug: &str,
    host: Option<&HeaderValue>,
    id: &RequestId,
    record: &mut RequestRecord,
) -> Result<UpstreamResponse, Refusal> {
    let connection = running.connection();
    let gateway = &*connection.gateway;
    let found = gateway.table.find(slug);
    record.set_service(found.as_ref().map(|service| &service.entry));
    let Some(service) = found else {
        return Err(Refusal::new(
            &codes::NO_SUCH_SERVICE,
            format!(
                "no instance of `{}` is registered; its account registers one with PUT /registry-svc/instance",
                display_slug(slug)
            ),
        ));
    };
    let max_hops = gateway.settings.forward.max_hops;
    if headers::via_hops(request.headers()) >= max_hops {
        return Err(Refusal::new(
            &codes::LOOP,
            format!(
                "this request for `{slug}` has passed this gateway {max_hops} times: an instance of `{slug}` sends requests back to it"
            ),
        ));
    }
    let Some(instance) = balance::pick(&service, &[]).cloned() else {
        return Err(Refusal::new(
            &codes::NO_INSTANCE_READY,
            format!("no healthy instance of `{slug}`; `oo instance ls --slug {slug} -o wide` shows why"),
        ));
    };
    if *request.method() == Method::TRACE {
        // The response to TRACE echoes the request, so it must not contain credentials (RFC 9110, 9.3.8).
        request.headers_mut().remove(header::AUTHORIZATION);
        request.headers_mut().remove(header::COOKIE);
    }
    if let Some(credential) = authorize(gateway, request.headers_mut(), slug, record).await? {
        running.exchange.set_credential(credential);
    }
    running.exchange.set_service(service.entry.clone());
    let target_bytes = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    running.exchange.set_head_bytes(headers::size(request.headers()) + target_bytes);

    let upgrade = headers::requested_upgrade(request.headers(), request.version());
    let client_side = upgrade.is_some().then(|| upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    edit_request_head(connection, &mut parts, &body, host, id, upgrade);
    let gate = continue_gate(&mut parts, &body);
    let upload = match body.is_end_stream() {
        true => RequestBody::Empty,
        false => {
            let gate = gate.clone().map(|gate| (gate, gateway.settings.forward.expect_continue_timeout));
            RequestBody::new(body, gate, running)
        }
    };

    let mut attempt = UpstreamAttempt {
        connection,
        service: &service,
        slug,
        replayable_head: replayable_head(&parts, &upload),
        target: parts.uri.path_and_query().cloned(),
        gate: gate.as_ref(),
        has_body: !matches!(upload, RequestBody::Empty),
        record,
    };
    let mut request = Request::from_parts(parts, upload);
    if let Some(gate) = &gate {
        open_gate_on_continue(&mut request, gate);
    }
    let abandon_guard = AbandonGuard(Some(running));
    let sent = attempt.send(instance, request).await;
    abandon_guard.end();
    let (response, lease) = sent?;
    finish_response(running, response, lease, gate, client_side, slug).await
}

/// Marks the request as abandoned if it is dropped before the response, which means that the client disconnected.
struct AbandonGuard<'a>(Option<&'a body::RequestGuard>);

impl AbandonGuard<'_> {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for AbandonGuard<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.0 {
            request.mark_abandoned();
        }
    }
}

/// Replaces a session token by a delegated one for this service (decision "Delegated tokens"). Returns the credential
/// of a request with a token of this daemon.
async fn authorize(
    gateway: &Gateway,
    headers: &mut HeaderMap,
    slug: &str,
    record: &mut RequestRecord,
) -> Result<Option<Credential>, Refusal> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(authorization) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() || authorization.to_str().is_err() {
        reject_ambiguous_auth(gateway, headers)?;
        return Ok(None);
    }
    let forwarded_auth = match gateway.identity.delegate_cached(authorization, slug) {
        Some(known) => known?,
        None => gateway.identity.delegate(authorization, slug).await?,
    };
    Ok(match forwarded_auth {
        ForwardedAuth::Untouched => None,
        ForwardedAuth::Delegated { credential, caller } => {
            record.caller = Some(caller);
            Some(credential)
        }
        ForwardedAuth::Replace { authorization, session_id, caller } => {
            record.caller = Some(caller);
            headers.insert(header::AUTHORIZATION, authorization);
            Some(Credential::Session(session_id))
        }
    })
}

/// Rejects several values, or one that is not visible ASCII, if any of them may be a token of this daemon: a service may
/// parse them differently.
fn reject_ambiguous_auth(gateway: &Gateway, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match values.any(|value| gateway.identity.names_our_key(value.as_bytes())) {
        false => Ok(()),
        true => Err(Refusal::new(
            &access::MALFORMED_TOKEN,
            "this request has several `Authorization` headers or one with invalid characters; send one token",
        )),
    }
}

/// Edits everything in the head that does not depend on the instance.
fn edit_request_head(
    connection: &Connection,
    parts: &mut Parts,
    body: &ClientBody,
    host: Option<&HeaderValue>,
    id: &RequestId,
    upgrade: Option<HeaderValue>,
) {
    let headers = &mut parts.headers;
    headers::strip_hop_by_hop(headers);
    connection.forwarded.strip_untrusted(headers);
    connection.forwarded.set_headers(headers, host);
    headers.insert(openorch_chassis::forwarded::X_REQUEST_ID, id.0.clone());
    headers.append(header::VIA, VIA);
    // Only the daemon itself may send a challenge to an instance (decision "Proof of instances").
    headers.remove("openorch-challenge");
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if parts.version == Version::HTTP_2 {
        headers::join_cookies(headers);
    }
    // An HTTP/2 body needs no length, but hyper only sends the body of an HTTP/1 GET if it is framed.
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    parts.version = Version::HTTP_11;
}

/// For `Expect: 100-continue`: a gate that delays the body until the instance wants it.
fn continue_gate(parts: &mut Parts, body: &ClientBody) -> Option<Arc<ContinueGate>> {
    let expect = parts.headers.get(header::EXPECT)?;
    if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return None;
    }
    if body.is_end_stream() {
        parts.headers.remove(header::EXPECT);
        return None;
    }
    Some(Arc::new(ContinueGate::default()))
}

/// A copy of the head of a request that may be retried: idempotent and without a body.
fn replayable_head(parts: &Parts, upload: &RequestBody) -> Option<Parts> {
    let idempotent = matches!(
        parts.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    if !idempotent || !matches!(upload, RequestBody::Empty) {
        return None;
    }
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    Some(copy)
}

/// Sends a request to an instance, with retries on other connections.
struct UpstreamAttempt<'a> {
    connection: &'a Arc<Connection>,
    service: &'a ServiceRoutes,
    slug: &'a str,
    replayable_head: Option<Parts>,
    target: Option<PathAndQuery>,
    gate: Option<&'a Arc<ContinueGate>>,
    has_body: bool,
    record: &'a mut RequestRecord,
}

impl UpstreamAttempt<'_> {
    async fn send(
        &mut self,
        mut instance: Arc<Upstream>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, PooledConn), Refusal> {
        let gateway = &*self.connection.gateway;
        let mut is_retry = false;
        loop {
            // A retry does not use the pool: all of its connections may have been closed with the first one.
            let pooled = if is_retry { None } else { self.pooled(&instance).await };
            let sender = match pooled {
                Some(sender) => sender,
                None => self.connect(&mut instance).await?,
            };
            self.record.instance = Some(instance.clone());
            self.set_target(&mut request, &instance)?;
            let mut conn = PooledConn { instance: instance.clone(), sender, has_body: self.has_body };
            let failed = match conn.sender.http.try_send_request(request).await {
                Ok(response) => return Ok((response, conn)),
                Err(failed) => failed,
            };
            if is_retry {
                return Err(self.refuse_unsent(failed));
            }
            request = self.retry_request(failed)?;
            is_retry = true;
            gateway.metrics.retried.inc();
        }
    }

    async fn pooled(&self, instance: &Upstream) -> Option<UpstreamConn> {
        let gateway = &*self.connection.gateway;
        loop {
            let mut sender = instance.acquire(self.connection.clock.now(), &gateway.settings)?;
            if sender.http.ready().await.is_ok() {
                gateway.metrics.reused.inc();
                return Some(sender);
            }
        }
    }

    /// Opens a connection, to another instance if this one cannot be reached. The request has not been sent yet.
    async fn connect(&mut self, instance: &mut Arc<Upstream>) -> Result<UpstreamConn, Refusal> {
        let gateway = &*self.connection.gateway;
        let mut tried = Vec::new();
        let mut closed_idle = false;
        loop {
            self.record.instance = Some(instance.clone());
            let error = match gateway.outbound.dial_for_request(&instance.url, self.slug).await {
                Ok(stream) => match UpstreamConn::handshake(stream, self.connection.clock.now()).await {
                    Ok(sender) => {
                        gateway.metrics.connected.inc();
                        return Ok(sender);
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) if error.is_local() && !closed_idle => {
                    tracing::debug!(%error, "closing idle connections to instances: local resources are exhausted");
                    gateway.table.close_idle();
                    // Their tasks close the sockets.
                    tokio::time::sleep(CLOSE_DELAY).await;
                    closed_idle = true;
                    continue;
                }
                Err(error) if error.is_local() => {
                    self.record.cause = Some(error.to_string());
                    return Err(Refusal::new(
                        &codes::NO_CONNECTION_LEFT,
                        "the daemon has no descriptors or ports left to connect to instances; try again in a moment",
                    ));
                }
                Err(error) => {
                    if error.is_of_instance() {
                        self.report_unreachable(instance, &error);
                    }
                    error.to_string()
                }
            };
            gateway.metrics.connect_failed.inc();
            tried.push(instance.clone());
            let only_one = self.service.healthy.len().max(self.service.slow.len()) == 1;
            let enough = tried.len() >= if only_one { 2 } else { MAX_DIALS };
            match balance::pick(self.service, &tried) {
                Some(next) if !enough => *instance = next.clone(),
                _ => {
                    self.record.cause = Some(error);
                    return Err(Refusal::new(
                        &codes::CANNOT_CONNECT,
                        format!(
                            "cannot connect to an instance of `{}`; check that it is running and listens on the registered address",
                            self.slug
                        ),
                    ));
                }
            }
        }
    }

    fn report_unreachable(&self, instance: &Upstream, error: &DialError) {
        tracing::debug!(instance.id = %instance.id, %error, "cannot connect to instance `{}`", instance.id);
        // If the channel is full, the next regular probe detects the failure.
        let _ = self.connection.gateway.unreachable_reports.try_send(instance.id.clone());
    }

    /// Sets the host and target for the instance.
    fn set_target(&self, request: &mut Request<RequestBody>, instance: &Upstream) -> Result<(), Refusal> {
        let base = instance.url.base_path();
        let target = self.target.as_ref().map_or("/", PathAndQuery::as_str);
        // The target of most requests is forwarded unchanged.
        if !base.is_empty() || request.uri().authority().is_some() || request.uri() == "/" {
            let joined = match (base, &self.target) {
                ("", Some(target)) => Ok(target.clone()),
                _ => PathAndQuery::from_maybe_shared(Bytes::from(format!("{base}{target}"))),
            };
            let whole = joined.map_err(|_| Refusal::invalid("this path cannot be forwarded"))?;
            *request.uri_mut() = Uri::from(whole);
        }
        request.headers_mut().insert(header::HOST, instance.host.clone());
        Ok(())
    }

    /// The request to retry, if it may be retried (decision "Gateway retries").
    fn retry_request(
        &mut self,
        mut failed: TrySendError<Request<RequestBody>>,
    ) -> Result<Request<RequestBody>, Refusal> {
        // hyper returned the request, so no byte of it was written.
        if let Some(unsent) = failed.take_message() {
            return Ok(unsent);
        }
        match self.replayable_head.take() {
            // An invalid response is not retried: the next one would be invalid too.
            Some(mut parts) if !failed.error().is_parse() => {
                parts.uri = self.target.clone().map(Uri::from).unwrap_or_default();
                Ok(Request::from_parts(parts, RequestBody::Empty))
            }
            _ => Err(self.refuse_unsent(failed)),
        }
    }

    fn refuse_unsent(&mut self, failed: TrySendError<Request<RequestBody>>) -> Refusal {
        if let Some(gate) = self.gate {
            gate.close();
        }
        let error = failed.into_error();
        if error.source().is_some_and(|cause| matches!(cause.downcast_ref(), Some(RequestBodyError::Client(_)))) {
            return Refusal::invalid("the body of this request is incomplete or has invalid framing");
        }
        self.record.cause = Some(error.to_string());
        let slug = self.slug;
        match error.is_parse() {
            true => {
                let sentence = format!("an instance of `{slug}` sent an invalid HTTP response");
                Refusal::new(&codes::BAD_ANSWER, sentence)
            }
            false => {
                let sentence = format!("an instance of `{slug}` closed the connection without a response");
                Refusal::new(&codes::NO_ANSWER, sentence)
            }
        }
    }
}

async fn finish_response(
    running: &body::RequestGuard,
    mut response: Response<Incoming>,
    lease: PooledConn,
    gate: Option<Arc<ContinueGate>>,
    client_side: Option<OnUpgrade>,
    slug: &str,
) -> Result<UpstreamResponse, Refusal> {
    *response.version_mut() = Version::HTTP_11;
    let bad = |what: &str| Err(Refusal::new(&codes::BAD_ANSWER, format!("an instance of `{slug}` {what}")));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = client_side else {
            return bad("switched protocols without a request to do so");
        };
        let protocol = response.headers().get(header::UPGRADE).cloned();
        let Some(protocol) = protocol.filter(|_| !headers::names_http2(response.headers())) else {
            return bad("switched to a protocol that cannot be tunnelled");
        };
        tunnel::start(running, client_side, upgrade::on(&mut response));
        edit_response_head(response.headers_mut());
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
        return Ok(response.map(|_| None));
    }
    if !headers::only_chunked(response.headers()) {
        return bad("sent a response with a transfer coding other than `chunked`");
    }
    let is_chunked = response.headers().contains_key(header::TRANSFER_ENCODING);
    edit_response_head(response.headers_mut());
    let (head, body) = response.into_parts();
    let mut body = UpstreamBody::new(body, lease, gate);
    if is_chunked && let Err(error) = body.prefetch(FIRST_CHUNK_TIMEOUT).await {
        tracing::debug!(slug, %error, "the response of an instance has invalid framing");
        return bad("sent a response body with invalid framing");
    }
    Ok(Response::from_parts(head, Some(body)))
}

fn edit_response_head(headers: &mut HeaderMap) {
    headers::strip_hop_by_hop(headers);
    headers.remove(header::TE);
    if headers.remove(header::TRANSFER_ENCODING).is_some() {
        // The transfer coding overrides it.
        headers.remove(header::CONTENT_LENGTH);
    }
    // A service must not affect the pages, sessions or browsers' network settings of the others on its origin.
    for name in headers::ORIGIN_WIDE {
        headers.remove(name);
    }
}

/// Opens the gate when the instance sends `100 Continue`.
fn open_gate_on_continue(request: &mut Request<RequestBody>, gate: &Arc<ContinueGate>) {
    let gate = gate.clone();
    on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            gate.open();
        }
    });
}
