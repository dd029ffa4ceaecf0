//! A running gateway, instances that follow a script, and a client that says exactly what it is told to.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use openorch_chassis::{
    Body, BoxFuture, Builtin, Caller, Credential, EncodedBody, Error, Identity, Passage, Peer, Result,
    codes::{self, access},
    forwarded::{ClientAddress, RequestId},
    outbound::{self, InstanceUrl, Outbound},
    place::Place,
    routes::{Backend, Routable, Routes},
};
use openorch_gateway::{Gateway, Metrics, RequestLog, Server, Settings, Table};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Platform {
    pub address: SocketAddr,
    pub table: Arc<Table>,
    pub metrics: Arc<Metrics>,
    pub outbound: Arc<Outbound>,
    pub loopback_only: Arc<AtomicBool>,
    pub suspects: mpsc::Receiver<Arc<str>>,
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
        let (suspect, suspects) = mpsc::channel(16);
        let gateway = Arc::new(Gateway {
            table: Arc::new(Table::new()),
            identity: Arc::new(People),
            builtin: Arc::new(Daemon),
            outbound: Arc::new(Outbound::new(dialling)),
            suspects: suspect,
            way_out: "the test stands".into(),
            loopback_only: Arc::new(AtomicBool::new(false)),
            metrics: Arc::default(),
            log: RequestLog::default(),
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
            suspects,
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
        self.publish_as(slug, urls, Routable::Yes);
    }

    pub fn publish_as(&self, slug: &str, urls: &[&str], routable: Routable) {
        let backend = |url: &&str| Backend {
            instance_id: (*url).into(),
            url: Arc::new(InstanceUrl::parse(url).unwrap()),
            routable,
        };
        self.table.publish(slug, urls.iter().map(backend).collect());
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// From another address of this machine.
    pub async fn client_from(&self, address: &str) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        Client::new(socket.connect(self.address).await.unwrap())
    }

    pub async fn ask(&self, request: &str) -> Answer {
        self.client().await.ask(request).await
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

/// Tokens as the tests know them.
struct People;

impl People {
    fn judge(authorization: &HeaderValue, audience: &str) -> Result<Passage> {
        let token = authorization.as_bytes();
        let token = token.strip_prefix(b"Bearer ").unwrap_or(token);
        match token {
            b"ours" | b"ours-slowly" => {
                let delegated = format!("Bearer delegated-for-{audience}");
                Ok(Passage::Replace {
                    authorization: delegated.parse().unwrap(),
                    session_id: "ses_1".into(),
                    caller: "ann".into(),
                })
            }
            b"revoked" => Err(Error::new(&access::SESSION_ENDED, "this token was revoked; sign in again")),
            b"for-another" => Err(Error::new(&access::OTHER_SERVICE, "this token is for another service")),
            b"unknowable" => Err(Error::new(&codes::platform::STORE_UNAVAILABLE, "sessions cannot be read now")),
            _ => Ok(Passage::Untouched),
        }
    }
}

impl Identity for People {
    fn opens(&self, _: &str, _: &str) -> bool {
        false
    }

    fn authenticate<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Caller>> {
        Box::pin(async { Err(Error::new(&access::INVALID_TOKEN, "nobody")) })
    }

    fn allows(&self, _: &Caller, _: &str) -> bool {
        false
    }

    fn passage_cached(&self, value: &HeaderValue, audience: &str) -> Option<Result<Passage>> {
        (value != "Bearer ours-slowly").then(|| People::judge(value, audience))
    }

    fn passage<'a>(&'a self, value: &'a HeaderValue, audience: &'a str) -> BoxFuture<'a, Result<Passage>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            People::judge(value, audience)
        })
    }

    fn claims_to_be_ours(&self, authorization: &[u8]) -> bool {
        std::str::from_utf8(authorization)
            .is_ok_and(|text| !matches!(People::judge(&text.parse().unwrap(), ""), Ok(Passage::Untouched)))
            || authorization.windows(3).any(|bytes| bytes == b"eyJ")
    }

    fn ended_credentials<'a>(&'a self, credentials: &'a [Credential]) -> BoxFuture<'a, Vec<Credential>> {
        let is_ended = |credential: &&Credential| &**credential.session_id() == "ended";
        Box::pin(async move { credentials.iter().filter(is_ended).cloned().collect() })
    }
}

/// Answers with what it was told of the request.
struct Daemon;

impl Builtin for Daemon {
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
                // Work that does not end with its client.
                let place = request.extensions().get::<Place>().cloned();
                tokio::spawn(async move {
                    let _place = place;
                    std::future::pending::<()>().await;
                });
                std::future::pending::<()>().await;
            }
            if request.uri().path().ends_with("/large") {
                lines.push("y".repeat(16 << 20));
            }
            if request.uri().path().ends_with("/endless") {
                let pieces = std::iter::repeat_with(|| Ok(Bytes::from_static(b"a piece")));
                let body = EncodedBody::Pieces { pieces: Box::new(pieces), held: 0 };
                let mut response = Response::new(Body::from(body));
                let session = if request.uri().query() == Some("ended") { "ended" } else { "lasting" };
                response.extensions_mut().insert(Credential::Session(session.into()));
                return response;
            }
            Response::new(Body::from(lines.join("\n")))
        })
    }
}

/// An instance that is a real HTTP server.
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

/// An instance that follows a script; told the how manieth connection it has, from 0.
pub async fn listen<F>(script: impl Fn(Client, usize) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = AtomicUsize::new(0);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(Client::new(stream), count.fetch_add(1, SeqCst)));
        }
    });
    address
}

/// An instance that answers every request with the request's own bytes.
pub async fn mirror() -> SocketAddr {
    listen(|mut stream, _| async move {
        while let Some(request) = stream.read_message().await {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len());
            stream.send(&answer).await;
        }
    })
    .await
}

/// The same that says the same to all.
pub async fn saying(answer: &'static str) -> SocketAddr {
    listen(move |mut stream, _| async move {
        while stream.read_message().await.is_some() {
            stream.send(answer).await;
        }
    })
    .await
}

/// One end of a connection, with what was read and not yet used.
pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// Whether the body came to its end as framed.
    pub whole: bool,
}

impl Answer {
    /// All values of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Panics where a refusal of the gateway's own has no code, or one of another status.
    fn check_code(&self) {
        if self.status < 400 || !self.body.starts_with("{\"error\": ") {
            return;
        }
        let list = [codes::gateway::ERRORS, codes::access::ERRORS, codes::platform::ERRORS].concat();
        let (_, id) = self.body.rsplit_once("\", \"code\": \"").unwrap_or_else(|| panic!("no code: {self:?}"));
        let code = list.iter().find(|code| id == format!("{}\"}}", code.id));
        assert_eq!(code.map(|code| code.status), Some(self.status), "{self:?}");
    }
}

/// All values of a header, joined.
pub fn header(head: &str, name: &str) -> Option<String> {
    let values: Vec<&str> = head
        .split("\r\n")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect();
    (!values.is_empty()).then(|| values.join(" | "))
}

impl Client {
    pub fn new(stream: TcpStream) -> Client {
        Client { stream, buffer: BytesMut::new() }
    }

    pub async fn connect(address: SocketAddr) -> Client {
        Client::new(TcpStream::connect(address).await.unwrap())
    }

    pub fn into_inner(self) -> TcpStream {
        assert!(self.buffer.is_empty());
        self.stream
    }

    pub async fn send(&mut self, text: &str) {
        // The other side may be gone; what it says then is what is tested.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    pub async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await;
        self.answer_to(request.starts_with("HEAD")).await
    }

    pub async fn answer(&mut self) -> Answer {
        self.answer_to(false).await
    }

    async fn answer_to(&mut self, headless: bool) -> Answer {
        let head = self.read_head().await.expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (body, whole) = match headless || [101, 204, 304].contains(&status) || status == 100 {
            true => (String::new(), true),
            false => self.read_body(&head, true).await,
        };
        let answer = Answer { status, head, body, whole };
        answer.check_code();
        answer
    }

    /// A whole request; `None` when the connection has ended.
    pub async fn read_message(&mut self) -> Option<String> {
        let head = self.read_head().await?;
        let (body, _) = self.read_body(&head, false).await;
        Some(head + &body)
    }

    /// Up to and with the empty line.
    pub async fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Chunked bodies as they are on the wire.
    async fn read_body(&mut self, head: &str, till_end: bool) -> (String, bool) {
        if header(head, "transfer-encoding").is_some_and(|c| c.contains("chunked")) {
            let mut wire = String::new();
            loop {
                let Some(line) = self.read_line().await else {
                    return (wire, false);
                };
                wire += &line;
                let size = line.trim().split(';').next().unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                if size > 0 {
                    let Some(data) = self.read_exactly(size + 2).await else {
                        return (wire, false);
                    };
                    wire += &data;
                    continue;
                }
                // Trailers up to the empty line.
                loop {
                    let Some(line) = self.read_line().await else {
                        return (wire, false);
                    };
                    wire += &line;
                    if line == "\r\n" {
                        return (wire, true);
                    }
                }
            }
        }
        if let Some(length) = header(head, "content-length") {
            return match self.read_exactly(length.parse().unwrap()).await {
                Some(body) => (body, true),
                None => (self.rest(), false),
            };
        }
        if !till_end {
            return (String::new(), true);
        }
        while self.more().await {}
        (self.rest(), true)
    }

    pub async fn read_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                return Some(String::from_utf8_lossy(&self.buffer.split_to(end + 2)).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub async fn read_exactly(&mut self, length: usize) -> Option<String> {
        while self.buffer.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&self.buffer.split_to(length)).into_owned())
    }

    fn rest(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.buffer).into_owned();
        self.buffer.advance(self.buffer.len());
        rest
    }

    /// Whether the other side has ended the connection, and said nothing before that.
    pub async fn is_ended(&mut self) -> bool {
        !self.more().await && self.buffer.is_empty()
    }

    /// Reads some more; `false` at the end.
    pub async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.buffer);
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.expect("the other side says something or leaves").is_ok_and(|n| n > 0)
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub async fn shut_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Ends the connection with a reset instead of an orderly end.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("this ends in time")
}
