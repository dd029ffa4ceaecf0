//! HTTP byte by byte: servers that follow a script and may misbehave, and a client that sends exactly what it is given.
//! All waits have a timeout.

use std::{
    future::Future,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use openorch_api::error::{access, gateway, platform};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{WAIT_TIMEOUT, within};

/// Accepts connections until it is stopped or the test ends.
pub struct Server {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Stops accepting connections; open ones continue.
    pub fn stop(&self) {
        self.accepting.abort();
    }
}

/// A server that follows a script, which gets the connection and its index from 0.
pub async fn serve<F>(script: impl Fn(WireConnection, usize) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = AtomicUsize::new(0);
    let accepting = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(WireConnection::new(stream), count.fetch_add(1, SeqCst)));
        }
    });
    Server { address, accepting }
}

/// The address of a server that follows a script until the test ends.
pub async fn listen<F>(script: impl Fn(WireConnection, usize) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    serve(script).await.address
}

/// A server that answers every request with the request's own bytes.
pub async fn echo_server() -> SocketAddr {
    listen(|mut stream, _| async move {
        while let Some(request) = stream.read_message().await {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len());
            stream.send(&answer).await;
        }
    })
    .await
}

/// A server with the same response to all requests.
pub async fn fixed_response(answer: &'static str) -> SocketAddr {
    listen(move |mut stream, _| async move {
        while stream.read_message().await.is_some() {
            stream.send(answer).await;
        }
    })
    .await
}

/// One end of a connection, with its read buffer.
pub struct WireConnection {
    stream: TcpStream,
    buffer: BytesMut,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// Whether the body was complete according to its framing.
    pub is_complete: bool,
}

impl Answer {
    /// All values of a header, joined.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Panics if a refusal by the gateway itself has no code, or one with another status.
    fn check_code(&self) {
        if self.status < 400 || !self.body.starts_with("{\"error\": ") {
            return;
        }
        let list = [gateway::ERRORS, access::ERRORS, platform::ERRORS].concat();
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

impl WireConnection {
    pub fn new(stream: TcpStream) -> WireConnection {
        WireConnection { stream, buffer: BytesMut::new() }
    }

    pub async fn connect(address: SocketAddr) -> WireConnection {
        WireConnection::new(TcpStream::connect(address).await.unwrap())
    }

    pub fn into_inner(self) -> TcpStream {
        assert!(self.buffer.is_empty());
        self.stream
    }

    /// Whether the peer accepted the bytes. A closed connection is not an error: tests look at what the peer sent
    /// before.
    pub async fn send(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).await.is_ok()
    }

    pub async fn round_trip(&mut self, request: &str) -> Answer {
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
        let answer = Answer { status, head, body, is_complete: whole };
        answer.check_code();
        answer
    }

    /// A complete request; `None` when the connection has ended.
    pub async fn read_message(&mut self) -> Option<String> {
        let head = self.read_head().await?;
        let (body, _) = self.read_body(&head, false).await;
        Some(head + &body)
    }

    /// The head, including the empty line.
    pub async fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// The body; a chunked one as it is on the wire.
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
                None => (self.take_buffered(), false),
            };
        }
        if !till_end {
            return (String::new(), true);
        }
        while self.read_more().await {}
        (self.take_buffered(), true)
    }

    pub async fn read_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                return Some(String::from_utf8_lossy(&self.buffer.split_to(end + 2)).into_owned());
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    pub async fn read_exactly(&mut self, length: usize) -> Option<String> {
        while self.buffer.len() < length {
            if !self.read_more().await {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&self.buffer.split_to(length)).into_owned())
    }

    fn take_buffered(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.buffer).into_owned();
        self.buffer.advance(self.buffer.len());
        rest
    }

    /// Whether the peer closed the connection without sending anything before.
    pub async fn is_closed(&mut self) -> bool {
        !self.read_more().await && self.buffer.is_empty()
    }

    /// Reads some bytes; `false` at the end of the stream.
    pub async fn read_more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.buffer);
        within(WAIT_TIMEOUT, "data or the end of the connection", read).await.is_ok_and(|n| n > 0)
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub async fn shutdown_write(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
