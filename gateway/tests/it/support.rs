//! A running gateway with stub identities, and helpers to send requests.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use openorch_chassis::{
    Body, BoxFuture, Builtin, Caller, Credential, EncodedBody, Error, ForwardedAuth, Identity, Peer, RequestMonitor,
    Result,
    clock::SystemClock,
    codes::{self, access},
    forwarded::{ClientAddress, RequestId},
    in_flight::InFlightGuard,
    outbound::{self, InstanceUrl, Outbound},
    routes::{Backend, Eligibility, Routes},
};
use openorch_gateway::{Gateway, Metrics, RequestLog, RoutingTable, Server, Settings};
pub use openorch_test_support::{
    WAIT_TIMEOUT, eventually,
    wire::{Answer, WireConnection, echo_server, fixed_response, header, listen},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

pub struct Platform {
    pub address: SocketAddr,
    pub table: Arc<RoutingTable>,
    pub metrics: Arc<Metrics>,
    pub outbound: Arc<Outbound>,
    pub loopback_only: Arc<AtomicBool>,
    pub unreachable_reports: mpsc::Receiver<Arc<str>>,
    pub stop: Option<oneshot::Sender<()>>,
    pub ended: JoinHandle<()>,
}

impl Platform {
    pub async fn start() -> Platform {
        Platform::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Platform {
        Platform::dialling(outbound::OutboundSettings::default(), change).await
    }

    pub async fn dialling(dialling: outbound::OutboundSettings, change: impl FnOnce(&mut Settings)) -> Platform {
        let mut settings = Settings::default();
        change(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let (report_sender, unreachable_reports) = mpsc::channel(16);
        let gateway = Arc::new(Gateway {
            table: Arc::new(RoutingTable::new()),
            identity: Arc::new(StubIdentity),
            builtin: Arc::new(StubBuiltin),
            outbound: Arc::new(Outbound::new(dialling)),
            unreachable_reports: report_sender,
            remedy: "restricted by the test".into(),
            loopback_only: Arc::new(AtomicBool::new(false)),
            metrics: Arc::default(),
            log: RequestLog::default(),
            monitor: Arc::new(RequestMonitor::new(1 << 16, Arc::new(SystemClock))),
            tls: None,
            settings,
        });
        let address = listener.local_addr().unwrap();
        let server = Server::new(gateway.clone());
        let ended = tokio::spawn(server.run(vec![listener], async {
            let _ = stopped.await;
        }));
        Platform {
            address,
            table: gateway.table.clone(),
            metrics: gateway.metrics.clone(),
            outbound: gateway.outbound.clone(),
            loopback_only: gateway.loopback_only.clone(),
            unreachable_reports,
            stop: Some(stop),
            ended,
        }
    }

    /// A service `demo` with one healthy instance.
    pub async fn in_front_of(instance: SocketAddr) -> Platform {
        let platform = Platform::start().await;
        platform.publish("demo", &[&format!("http://{instance}")]);
        platform
    }

    pub fn publish(&self, slug: &str, urls: &[&str]) {
        self.publish_as(slug, urls, Eligibility::Eligible);
    }

    pub fn publish_as(&self, slug: &str, urls: &[&str], routable: Eligibility) {
        let backend = |url: &&str| Backend {
            instance_id: (*url).into(),
            url: Arc::new(InstanceUrl::parse(url).unwrap()),
            eligibility: routable,
        };
        self.table.publish(slug, urls.iter().map(backend).collect());
    }

    pub async fn client(&self) -> WireConnection {
        WireConnection::connect(self.address).await
    }

    /// A client with another address of this machine.
    pub async fn client_from(&self, address: &str) -> WireConnection {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        WireConnection::new(socket.connect(self.address).await.unwrap())
    }

    pub async fn ask(&self, request: &str) -> Answer {
        self.client().await.round_trip(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&get(path)).await
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")
}

pub fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// An identity stub with fixed tokens.
struct StubIdentity;

impl StubIdentity {
    fn verify(authorization: &HeaderValue, audience: &str) -> Result<ForwardedAuth> {
        let token = authorization.as_bytes();
        let token = token.strip_prefix(b"Bearer ").unwrap_or(token);
        match token {
            b"ours" | b"ours-slowly" => {
                let delegated = format!("Bearer delegated-for-{audience}");
                Ok(ForwardedAuth::Replace {
                    authorization: delegated.parse().unwrap(),
                    session_id: "ses_1".into(),
                    caller: "ann".into(),
                })
            }
            b"revoked" => Err(Error::new(&access::SESSION_ENDED, "this token was revoked; sign in again")),
            b"for-another" => Err(Error::new(&access::OTHER_SERVICE, "this token is for another service")),
            b"unknowable" => Err(Error::new(&codes::platform::STORE_UNAVAILABLE, "sessions cannot be read")),
            _ => Ok(ForwardedAuth::Untouched),
        }
    }
}

impl Identity for StubIdentity {
    fn delegation_allows(&self, _: &str, _: &str) -> bool {
        false
    }

    fn authenticate<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Caller>> {
        Box::pin(async { Err(Error::new(&access::INVALID_TOKEN, "nobody")) })
    }

    fn allows(&self, _: &Caller, _: &str) -> bool {
        false
    }

    fn delegate_cached(&self, value: &HeaderValue, audience: &str) -> Option<Result<ForwardedAuth>> {
        (value != "Bearer ours-slowly").then(|| StubIdentity::verify(value, audience))
    }

    fn delegate<'a>(&'a self, value: &'a HeaderValue, audience: &'a str) -> BoxFuture<'a, Result<ForwardedAuth>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            StubIdentity::verify(value, audience)
        })
    }

    fn names_our_key(&self, authorization: &[u8]) -> bool {
        std::str::from_utf8(authorization)
            .is_ok_and(|text| !matches!(StubIdentity::verify(&text.parse().unwrap(), ""), Ok(ForwardedAuth::Untouched)))
            || authorization.windows(3).any(|bytes| bytes == b"eyJ")
    }

    fn ended_credentials<'a>(&'a self, credentials: &'a [Credential]) -> BoxFuture<'a, Vec<Credential>> {
        let is_ended = |credential: &&Credential| &**credential.session_id() == "ended";
        Box::pin(async move {
            if credentials.iter().any(|credential| &**credential.session_id() == "unknowable") {
                std::future::pending::<()>().await;
            }
            credentials.iter().filter(is_ended).cloned().collect()
        })
    }
}

/// A stub of the built-in paths that responds with what it received.
struct StubBuiltin;

impl Builtin for StubBuiltin {
    fn drain(&self) {}

    fn owns(&self, first_segment: &str) -> bool {
        ["", "user-svc"].contains(&first_segment)
    }

    fn call(
        &self,
        request: Request<openorch_chassis::ClientBody>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let client = request.extensions().get::<ClientAddress>().unwrap();
            let id = request.extensions().get::<RequestId>().unwrap();
            let mut lines = vec![
                format!("builtin {} {}", request.method(), request.uri()),
                format!("client {} https={} host={:?}", client.ip, client.https, client.host),
                format!("id {}", id.as_str()),
                format!("peer {}", peer.address.ip()),
            ];
            for (name, value) in request.headers() {
                lines.push(format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
            }
            if request.uri().path().ends_with("/goes-on") {
                // Work that continues after a disconnect of the client.
                let in_flight = request.extensions().get::<InFlightGuard>().cloned();
                tokio::spawn(async move {
                    let _place = in_flight;
                    std::future::pending::<()>().await;
                });
                std::future::pending::<()>().await;
            }
            if request.uri().path().ends_with("/large") {
                lines.push("y".repeat(16 << 20));
            }
            if request.uri().path().ends_with("/endless") {
                let pieces = std::iter::repeat_with(|| Ok(Bytes::from_static(b"a piece")));
                let body = EncodedBody::Chunks { pieces: Box::new(pieces), held: 0 };
                let mut response = Response::new(Body::from(body));
                let session = request.uri().query().unwrap_or("lasting").to_owned();
                response.extensions_mut().insert(Credential::Session(session.into()));
                return response;
            }
            Response::new(Body::from(lines.join("\n")))
        })
    }
}

/// An instance with a real HTTP server.
pub async fn instance<F, B>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    listen(move |stream, _| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answering = answer(request);
                async move { Ok::<_, std::convert::Infallible>(answering.await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let connection = http.serve_connection(TokioIo::new(stream.into_inner()), service);
            let _ = connection.with_upgrades().await;
        }
    })
    .await
}

/// Waits until the condition holds, such as a metric that reaches a value.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(WAIT_TIMEOUT, what, async || holds()).await;
}

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    openorch_test_support::within(WAIT_TIMEOUT, "an operation of a test", work).await
}
