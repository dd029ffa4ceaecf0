//! TLS on the API port: `OPENORCH_TLS_CERT` and `OPENORCH_TLS_KEY`.

use std::{fs, future::poll_fn, io, net::IpAddr, num::NonZero, path::Path, pin::pin, sync::Arc, task::ready, thread};

use arc_swap::ArcSwap;
use openorch_chassis::{Error, Result, forwarded::network, turns::Turns};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::Acceptor,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// The certificate that is shown to clients, which may be replaced while the server runs.
#[derive(Debug)]
pub struct Tls(ArcSwap<ServerConfig>);

impl Tls {
    /// From the files of a chain of certificates and its key, both PEM.
    pub fn read(certificate: &Path, key: &Path) -> Result<Tls> {
        Ok(Tls(ArcSwap::from(server_config(certificate, key)?)))
    }

    /// Shows the certificate in these files from the next connection on. Where they cannot be used nothing changes.
    pub fn reload(&self, certificate: &Path, key: &Path) -> Result<()> {
        self.0.store(server_config(certificate, key)?);
        Ok(())
    }
}

/// Turns for handshakes. Signing one takes milliseconds of a worker where the key is RSA (an ECDSA key needs a tenth of a
/// millisecond): half of the workers are left to what is open already, and addresses take turns.
pub(crate) struct Handshakes(Turns<IpAddr>);

impl Default for Handshakes {
    fn default() -> Handshakes {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Handshakes(Turns::new((cores / 2).max(1)))
    }
}

impl Handshakes {
    /// The connection of a client, once it has greeted and its turn has come.
    pub async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        tls: &Tls,
        socket: S,
        client: IpAddr,
    ) -> io::Result<TlsStream<S>> {
        let greeted = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let take_turn = || Box::pin(self.0.take(network(client)));
        let finishing = {
            // The answer to the greeting is made, and signed, here.
            let _turn = take_turn().await;
            greeted.into_stream(tls.0.load_full())
        };
        // Or later, for a client that has to greet again (RFC 8446, 4.1.4): each step has a turn, and none while it waits for
        // the client.
        let (mut finishing, mut turn) = (pin!(finishing), take_turn());
        poll_fn(move |cx| {
            let _turn = ready!(turn.as_mut().poll(cx));
            turn = take_turn();
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
        .ok_or_else(|| Error::invalid(format!("{} holds no certificate in PEM form", certificate.display())))?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| Error::invalid(format!("{} holds no private key: {error}", key.display())))?;
    let unusable = |error: rustls::Error| {
        Error::invalid(format!("{} and {} do not go together: {error}", certificate.display(), key.display()))
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
