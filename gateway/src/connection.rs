//! A client connection: its socket, and the state shared by its requests.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use openorch_chassis::{Peer, forwarded::ForwardedContext};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    Gateway,
    client_limits::ClientSlot,
    conn_tracker::{CoarseClock, ConnState, ConnTracker},
    connection_limit::ConnectionPermit,
};

pub struct Connection {
    pub gateway: Arc<Gateway>,
    pub clock: Arc<CoarseClock>,
    pub tracker: Arc<ConnTracker>,
    pub state: Arc<ConnState>,
    pub peer: Arc<Peer>,
    pub forwarded: ForwardedContext,
    /// `None` for an exempt address.
    pub client_slot: Option<ClientSlot>,
    /// Held for the lifetime of the connection, also as a tunnel.
    pub _permit: ConnectionPermit,
}

/// Held while a request is in progress, so that the connection does not count as idle.
pub struct RunningGuard(pub Arc<Connection>);

impl RunningGuard {
    pub fn begin(connection: Arc<Connection>) -> RunningGuard {
        connection.state.request_started();
        RunningGuard(connection)
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.state.request_ended(&self.0.clock);
    }
}

/// A socket that reports reads and writes to its [`ConnState`].
pub struct Socket {
    pub stream: TcpStream,
    pub state: Arc<ConnState>,
    pub clock: Arc<CoarseClock>,
}

pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Socket {
    /// Records the result of a write of `length` bytes.
    fn on_write(&self, length: usize, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.state.on_write(false, None, &self.clock),
            Poll::Ready(Ok(bytes)) => self.state.on_write(*bytes == length, Some(*bytes), &self.clock),
            // The error ends the connection.
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let received = &buffer.filled()[before..];
        if !received.is_empty() {
            this.state.bytes_received(received, &this.clock);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.on_write(bytes.len(), &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.on_write(slices.iter().map(|slice| slice.len()).sum(), &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(inner) => inner.is_write_vectored(),
            Stream::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}
