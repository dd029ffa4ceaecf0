//! The origin of a call: an HTTP request, or an operation that calls another one in process.

use std::{net::IpAddr, sync::Arc};

use http::request;
use tokio::time::Instant;

use super::head::bearer;
use crate::{
    CallInfo, Peer,
    forwarded::{ClientAddress, RequestId},
    in_flight::InFlightGuard,
    local::LocalRequest,
};

/// What is known of a call before its input is read. A call in process inherits it from its request.
pub(super) struct CallOrigin {
    /// `None` for an operation called by a public one: those calls are unauthenticated.
    pub token: Option<Arc<str>>,
    pub request_id: Box<str>,
    pub client_ip: IpAddr,
    pub is_local: bool,
    /// The value of the header `OpenOrch-Extended` is `1`.
    pub asks_extended: bool,
    /// Held until the work is done, even if the client disconnects.
    pub slot: Option<InFlightGuard>,
    /// `None` for calls in process: the access log is about the operation of the request.
    pub call_info: Option<Arc<CallInfo>>,
    /// The calling operation.
    pub parent: Option<&'static str>,
    /// The number of calling operations above this call.
    pub depth: usize,
    pub deadline: Option<Instant>,
}

impl CallOrigin {
    pub fn of_request(head: &request::Parts, peer: &Peer) -> CallOrigin {
        let extensions = &head.extensions;
        CallOrigin {
            token: bearer(&head.headers).map(Into::into),
            request_id: extensions.get::<RequestId>().map(|id| id.as_str().into()).unwrap_or_default(),
            client_ip: extensions.get::<ClientAddress>().map_or(peer.address.ip(), |client| client.ip),
            is_local: extensions.get::<LocalRequest>().is_some(),
            asks_extended: head.headers.get(openorch_api::header::EXTENDED.name).is_some_and(|value| value == "1"),
            slot: extensions.get::<InFlightGuard>().cloned(),
            call_info: extensions.get::<Arc<CallInfo>>().cloned(),
            parent: None,
            depth: 0,
            deadline: None,
        }
    }
}
