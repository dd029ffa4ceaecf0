//! Connections to addresses configured by users, the only module that opens them: checks whether an address is allowed,
//! resolves and dials it (decision "Instance addresses"). Provides TCP and TLS streams; the application protocol is up
//! to the caller.

use std::{
    error, fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, OnceLock, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Result, settings};

mod lookup;
mod networks;
mod url;

use lookup::{LookupError, Lookups, Purpose};
pub use networks::{Cidr, Networks, unwrapped};
pub use url::InstanceUrl;

settings! {
    /// Connections to instances: `[outbound]`.
    pub struct OutboundSettings in "outbound" {
        /// Networks allowed for instances: CIDR ranges and the words loopback, private and public.
        instance_networks: Networks = "loopback,private,public", as "OPENORCH_INSTANCE_NETWORKS";
        /// Timeout for connecting to an instance, including name resolution and the TLS handshake.
        connect_timeout: Duration = "3s";
        /// Timeout for name resolution during a registration; a name that takes longer is only checked when it is dialled.
        check_timeout: Duration = "500ms";
    }
}

/// Opens connections to instances. One per process.
pub struct Outbound {
    settings: OutboundSettings,
    own_addresses: RwLock<Vec<SocketAddr>>,
    tls: OnceLock<TlsConnector>,
    lookups: Arc<Lookups>,
}

impl Outbound {
    /// A dialer that resolves names with the system's resolver.
    pub fn new(settings: OutboundSettings) -> Outbound {
        let lookups = Arc::new(Lookups::new(lookup::system_resolver()));
        Outbound { settings, own_addresses: RwLock::default(), tls: OnceLock::new(), lookups }
    }

    /// Sets the addresses of the daemon's listener, its database and its mail server, which are never dialled for users. An
    /// unspecified address means its port on every address of this machine.
    pub fn set_own_addresses(&self, addresses: Vec<SocketAddr>) {
        *self.own_addresses.write().unwrap_or_else(|broken| broken.into_inner()) = addresses;
    }

    /// Resolves, checks and dials, for a probe. Dials the checked addresses without resolving the name again. `owner` is the
    /// slug of the account that registered the address: lookups are limited per owner.
    pub async fn dial(&self, url: &InstanceUrl, owner: &str) -> Result<Connection, DialError> {
        self.dial_for(url, owner, Purpose::Check).await
    }

    /// Like [`Outbound::dial`], for a request: its lookup has a limit apart from those of probes and registrations.
    pub async fn dial_for_request(&self, url: &InstanceUrl, owner: &str) -> Result<Connection, DialError> {
        self.dial_for(url, owner, Purpose::Request).await
    }

    async fn dial_for(&self, url: &InstanceUrl, owner: &str, purpose: Purpose) -> Result<Connection, DialError> {
        let outcome = match timeout(self.settings.connect_timeout, self.connect(url, owner, purpose)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DialError::TimedOut(self.settings.connect_timeout)),
        };
        if outcome.is_err() {
            self.lookups.mark_doubtful(url.host(), owner);
        }
        outcome
    }

    /// Fails with the reason if `url` must not be dialled, so that `owner` cannot register it. A name that does not resolve
    /// is accepted, since it may resolve later.
    pub async fn check_registration(&self, url: &InstanceUrl, owner: &str) -> Result<(), String> {
        let looked_up = timeout(self.settings.check_timeout, self.resolve(url, owner, Purpose::Check)).await;
        let Ok(Ok(addresses)) = looked_up else {
            return Ok(());
        };
        // One address of our own among several is enough: the name leads back here.
        if let Some(own) = addresses.iter().find(|address| self.is_own(**address)) {
            return Err(own_address_reason(*own));
        }
        match self.filter_allowed(addresses) {
            Err(DialError::Forbidden(reason)) => Err(reason),
            _ => Ok(()),
        }
    }

    async fn connect(&self, url: &InstanceUrl, owner: &str, purpose: Purpose) -> Result<Connection, DialError> {
        let addresses = self.filter_allowed(self.resolve(url, owner, purpose).await?)?;
        let timeout_per_address = self.settings.connect_timeout / addresses.len() as u32;
        let mut last = None;
        for address in addresses {
            // An unreachable first address must not use up the time of the second one.
            match timeout(timeout_per_address, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return self.start_tls(url, stream).await,
                Ok(Err(error)) => last = Some(DialError::Connect(address, error)),
                Err(_) => last = last.or(Some(DialError::TimedOut(timeout_per_address))),
            }
        }
        Err(last.unwrap_or(DialError::TimedOut(timeout_per_address)))
    }

    async fn start_tls(&self, url: &InstanceUrl, stream: TcpStream) -> Result<Connection, DialError> {
        // Nagle's algorithm would delay small requests. Ignored on failure: the connection works without it.
        let _ = stream.set_nodelay(true);
        if !url.is_https() {
            return Ok(Connection::Plain(stream));
        }
        let name =
            ServerName::try_from(url.host().to_owned()).map_err(|error| DialError::Tls(io::Error::other(error)))?;
        match self.tls_connector()?.connect(name, stream).await {
            Ok(stream) => Ok(Connection::Tls(Box::new(stream))),
            Err(error) => Err(DialError::Tls(error)),
        }
    }

    async fn resolve(&self, url: &InstanceUrl, owner: &str, purpose: Purpose) -> Result<Vec<SocketAddr>, DialError> {
        match url.host().parse::<IpAddr>() {
            Ok(address) => Ok(vec![SocketAddr::new(address, url.port())]),
            Err(_) => {
                let addresses = self.lookups.resolve(url.host(), url.port(), owner, purpose).await;
                addresses.map_err(|error| match error {
                    LookupError::NotStarted => DialError::NotLookedUp,
                    LookupError::Failed(error) => DialError::Resolve(error),
                })
            }
        }
    }

    /// The addresses that may be dialled; an error if there are none.
    fn filter_allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
        let mut refusal = None;
        let mut allowed = addresses;
        allowed.retain(|address| match self.refusal(*address) {
            None => true,
            Some(reason) => {
                refusal = Some(reason);
                false
            }
        });
        match refusal {
            Some(reason) if allowed.is_empty() => Err(DialError::Forbidden(reason)),
            None if allowed.is_empty() => {
                Err(DialError::Resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
            }
            _ => Ok(allowed),
        }
    }

    fn refusal(&self, address: SocketAddr) -> Option<String> {
        if self.is_own(address) {
            return Some(own_address_reason(address));
        }
        let reason = self.settings.instance_networks.refusal(address.ip())?;
        Some(format!("it resolves to {}: {reason}", address.ip()))
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        let ip = unwrapped(address.ip());
        let own = self.own_addresses.read().unwrap_or_else(|broken| broken.into_inner());
        own.iter().any(|own| {
            own.port() == address.port()
                && (unwrapped(own.ip()) == ip || (own.ip().is_unspecified() && is_local_address(ip)))
        })
    }

    fn tls_connector(&self) -> Result<&TlsConnector, DialError> {
        if let Some(ready) = self.tls.get() {
            return Ok(ready);
        }
        // Loaded on first use: reading the system's root certificates takes milliseconds, and most daemons never dial https.
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| DialError::Tls(io::Error::other(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(self.tls.get_or_init(|| TlsConnector::from(Arc::new(config))))
    }
}

fn own_address_reason(address: SocketAddr) -> String {
    format!("{address} is an address of this daemon, its database or its mail server")
}

/// Only addresses of this machine can be bound, so that no list of interfaces is needed.
fn is_local_address(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub enum DialError {
    /// The address is not allowed.
    Forbidden(String),
    /// The name has no address.
    Resolve(io::Error),
    /// Too many names are being looked up, which says nothing about this one.
    NotLookedUp,
    /// The connection to this address failed.
    Connect(SocketAddr, io::Error),
    /// The connection was not open after this time.
    TimedOut(Duration),
    /// The handshake failed, or the certificate is not trusted.
    Tls(io::Error),
}

impl DialError {
    /// Whether local resources were exhausted (descriptors, ports, memory), which says nothing about the instance.
    pub fn is_local(&self) -> bool {
        let (DialError::Connect(_, error) | DialError::Resolve(error)) = self else { return false };
        is_exhausted(error)
    }

    /// Whether it says anything about the instance.
    pub fn is_of_instance(&self) -> bool {
        !self.is_local() && !matches!(self, DialError::NotLookedUp)
    }
}

/// Whether local resources were exhausted.
fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE and ENFILE have no `ErrorKind`; ENOBUFS is 105 on Linux, 55 on macOS.
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(24 | 23 | 105 | 55))
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Forbidden(reason) => f.write_str(reason),
            DialError::Resolve(error) => write!(f, "its name cannot be resolved: {error}"),
            DialError::NotLookedUp => f.write_str("its name was not looked up: too many other lookups are in progress"),
            DialError::Connect(address, error) => write!(f, "connecting to {address}: {error}"),
            DialError::TimedOut(after) => write!(f, "no connection within {after:?}"),
            DialError::Tls(error) => write!(f, "the TLS handshake failed: {error}"),
        }
    }
}

impl error::Error for DialError {}

/// An open connection to an instance.
pub enum Connection {
    /// Without encryption.
    Plain(TcpStream),
    /// Encrypted with TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! each {
    ($connection:expr, $stream:ident => $call:expr) => {
        match $connection.get_mut() {
            Connection::Plain($stream) => $call,
            Connection::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Connection::Plain(stream) => stream.is_write_vectored(),
            Connection::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
