//! TLS on the API port: `OPENORCH_TLS_CERT` and `OPENORCH_TLS_KEY`.

use std::{fs, future::poll_fn, io, net::IpAddr, num::NonZero, path::Path, pin::pin, sync::Arc, task::ready, thread};

use arc_swap::ArcSwap;
use openorch_chassis::{Error, Result, fair_semaphore::FairSemaphore, forwarded::client_network};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::Acceptor,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// The TLS configuration of the server, whose certificate can be reloaded.
#[derive(Debug)]
pub struct Tls(ArcSwap<ServerConfig>);

impl Tls {
    /// Reads a certificate chain and its private key from PEM files.
    pub fn read(certificate: &Path, key: &Path) -> Result<Tls> {
        Ok(Tls(ArcSwap::from(server_config(certificate, key)?)))
    }

    /// Reloads the certificate for new connections. If it fails, the current certificate remains.
    pub fn reload(&self, certificate: &Path, key: &Path) -> Result<()> {
        self.0.store(server_config(certificate, key)?);
        Ok(())
    }
}

/// Limits concurrent handshakes, fairly among client networks. A signature takes milliseconds of a worker with an RSA key (a
/// tenth of a millisecond with ECDSA), so half of the workers are left to open connections.
pub(crate) struct HandshakeLimiter(FairSemaphore<IpAddr>);

impl Default for HandshakeLimiter {
    fn default() -> HandshakeLimiter {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        HandshakeLimiter(FairSemaphore::new((cores / 2).max(1)))
    }
}

impl HandshakeLimiter {
    /// Performs the handshake of a client: waits for its `ClientHello`, then for a permit.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        tls: &Tls,
        socket: S,
        client: IpAddr,
    ) -> io::Result<TlsStream<S>> {
        let client_hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let acquire = || Box::pin(self.0.acquire(client_network(client)));
        let finishing = {
            // Creates and signs the reply to the `ClientHello`.
            let _permit = acquire().await;
            client_hello.into_stream(tls.0.load_full())
        };
        // After a `HelloRetryRequest` (RFC 8446, 4.1.4) the signature is created later. So each step acquires a permit, and
        // none is held while it waits for the client.
        let (mut finishing, mut turn) = (pin!(finishing), acquire());
        poll_fn(move |cx| {
            let _turn = ready!(turn.as_mut().poll(cx));
            turn = acquire();
            finishing.as_mut().poll(cx)
        })
        .await
    }
}

fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let read =
        |path: &Path| fs::read(path).map_err(|error| Error::invalid(format!("reading {}: {error}", path.display())));
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| Error::invalid(format!("{} contains no PEM certificate", certificate.display())))?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| Error::invalid(format!("{} contains no private key: {error}", key.display())))?;
    let unusable = |error: rustls::Error| {
        Error::invalid(format!("cannot use {} with {}: {error}", certificate.display(), key.display()))
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
