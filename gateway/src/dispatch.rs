//! Request dispatch: validates a request and passes it to a built-in service or an instance.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Acquire},
};

use http::{
    HeaderValue, Method, Request, Response, Version, header,
    uri::{Authority, PathAndQuery},
};
use hyper::body::Incoming;
use openorch_chassis::{
    CallInfo, ClientBody,
    codes::gateway as codes,
    forwarded::{RequestId, X_REQUEST_ID},
    local::{LocalRequest, non_local_reason},
};
use tracing::Instrument;

use crate::{
    body::{self, ResponseBody, ResponseBodyKind},
    connection::Connection,
    forward::forward,
    guard, headers,
    refusal::Refusal,
    request_log::RequestRecord,
    target::{Target, target},
};

pub async fn serve(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let request = ClientBody::of(request);
    let path = request.uri().path_and_query().cloned();
    let path = path.as_ref().map_or("", PathAndQuery::path);
    let target = target(path);
    let is_builtin = match &target {
        Target::Segment(segment) => connection.gateway.builtin.owns(segment),
        // Paths that name no service are answered by the gateway.
        Target::Nameless | Target::NotUtf8 => true,
    };
    let (running, refusal) = body::RequestGuard::begin(connection, request.headers(), is_builtin);
    let connection = running.connection();
    let id = RequestId::of(request.headers());
    let mut record = RequestRecord::begin(connection, request.method(), path, request.headers(), &id);
    let outcome = match refusal {
        None => dispatch(&running, request, path, target, is_builtin, &id, &mut record).await,
        Some(refusal) => Err(refusal),
    };
    let response = match outcome {
        Ok(response) => response,
        Err(refusal) => {
            connection.gateway.metrics.requests.refused(refusal.status());
            connection.gateway.log.refused(&record, &refusal, &id);
            let mut response = refusal.into_response().map(ResponseBodyKind::Text);
            response.headers_mut().insert(X_REQUEST_ID, id.0);
            response
        }
    };
    connection.state.count_response_head(response.headers());
    let completed = record.on_response_head(&connection.gateway, response.status());
    Ok(response.map(|kind| ResponseBody::new(kind, running, completed)))
}

async fn dispatch(
    running: &body::RequestGuard,
    request: Request<ClientBody>,
    path: &str,
    target: Target<'_>,
    builtin: bool,
    id: &RequestId,
    record: &mut RequestRecord,
) -> Result<Response<ResponseBodyKind>, Refusal> {
    let connection = running.connection();
    let gateway = &*connection.gateway;
    let host = validate_head(connection, &request)?;
    let segment = match target {
        Target::Segment(segment) => segment,
        Target::Nameless => {
            return Err(Refusal::new(&codes::NO_SERVICE_NAMED, "this path names no service; use `/<slug>/…`"));
        }
        Target::NotUtf8 => {
            return Err(Refusal::invalid("the first segment of this path is not UTF-8 when decoded"));
        }
    };
    if request.headers().contains_key("service-worker") && !path.trim_start_matches('/').contains('/') {
        return Err(Refusal::new(
            &codes::SERVICE_WORKER,
            "the scope of a service worker script directly at the slug would include all services of this origin; serve \
             the script below the slug, as in `/<slug>/worker.js`",
        ));
    }
    if gateway.loopback_only.load(Acquire) {
        let host = host.as_ref().map(HeaderValue::as_bytes);
        guard::require_local(request.headers(), host, builtin, &gateway.remedy)?;
    }
    if builtin {
        gateway.metrics.requests.builtin.inc();
        let mut request = request;
        request.extensions_mut().insert(running.in_flight());
        let mut response = call_builtin(connection, request, host, id, record.call_info()).await;
        if let Some(credential) = response.extensions_mut().remove() {
            running.exchange.set_credential(credential);
        }
        return Ok(response);
    }
    let span = record.open_span(&segment, id);
    let answer = forward(running, request, &segment, host.as_ref(), id, record).instrument(span).await?;
    gateway.metrics.requests.forwarded.inc();
    Ok(answer.map(|body| match body {
        Some(body) => ResponseBodyKind::Instance(body),
        None => ResponseBodyKind::Text(Default::default()),
    }))
}

/// Validates the head of a request. Returns the requested host.
fn validate_head(connection: &Connection, request: &Request<ClientBody>) -> Result<Option<HeaderValue>, Refusal> {
    let settings = &connection.gateway.settings;
    let uri = request.uri();
    if *request.method() == Method::CONNECT {
        return Err(Refusal::new(
            &codes::CONNECT_NOT_ALLOWED,
            "CONNECT is not supported; address a service by its path",
        ));
    }
    if uri.path_and_query().is_some_and(|path| path.as_str().len() > *settings.http.max_uri_bytes) {
        return Err(Refusal::new(
            &codes::TARGET_TOO_LONG,
            format!("the request target is longer than {} bytes", *settings.http.max_uri_bytes),
        ));
    }
    let headers = request.headers();
    if headers.len() > settings.http.max_headers {
        return Err(Refusal::new(
            &codes::TOO_MANY_HEADERS,
            format!("this request has more than {} header fields", settings.http.max_headers),
        ));
    }
    if !headers::only_chunked(headers) {
        // The end of the body is unknown, so the connection cannot be reused (RFC 9112, 6.3).
        return Err(
            Refusal::new(&codes::UNKNOWN_TRANSFER_CODING, "the only supported transfer coding is `chunked`").closing()
        );
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let given = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::invalid("this request has several `Host` headers"));
    }
    match uri.authority() {
        Some(authority) => {
            let host = HeaderValue::from_str(authority.as_str());
            match host.ok().filter(|host| !host.as_bytes().contains(&b'@')) {
                Some(host) => Ok(Some(host)),
                None => Err(Refusal::invalid("the request target has no valid host")),
            }
        }
        None if given.is_none() && request.version() == Version::HTTP_11 => {
            Err(Refusal::invalid("this request has no `Host` header"))
        }
        // An empty `Host` is allowed: it means that the target has no authority (RFC 9112, 3.2).
        None if given.is_some_and(|host| !host.is_empty() && !is_host(host.as_bytes())) => {
            Err(Refusal::invalid("the `Host` of this request is not a host with an optional port"))
        }
        None => Ok(given.cloned()),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110, 7.2), without user info.
fn is_host(value: &[u8]) -> bool {
    let authority = std::str::from_utf8(value).ok().and_then(|text| text.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let after_host = authority.as_str().strip_prefix(authority.host()).unwrap_or("@");
        match after_host.strip_prefix(':') {
            Some(port) => port.is_empty() || port.parse::<u16>().is_ok(),
            None => after_host.is_empty(),
        }
    })
}

async fn call_builtin(
    connection: &Connection,
    mut request: Request<ClientBody>,
    host: Option<HeaderValue>,
    id: &RequestId,
    call_info: Option<Arc<CallInfo>>,
) -> Response<ResponseBodyKind> {
    let client = connection.forwarded.client(request.headers(), host.as_ref());
    if client.ip.is_loopback()
        && non_local_reason(request.headers(), host.as_ref().map(HeaderValue::as_bytes)).is_none()
    {
        request.extensions_mut().insert(LocalRequest);
    }
    connection.forwarded.strip_untrusted(request.headers_mut());
    // The router matches on paths only.
    if request.uri().authority().is_some()
        && let Some(path) = request.uri().path_and_query().cloned()
    {
        *request.uri_mut() = path.into();
    }
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(id.clone());
    if let Some(notes) = call_info {
        request.extensions_mut().insert(notes);
    }
    let answering = connection.gateway.builtin.call(request, connection.peer.clone());
    let mut response = answering.await;
    response.headers_mut().insert(X_REQUEST_ID, id.0.clone());
    response.map(ResponseBodyKind::Builtin)
}
