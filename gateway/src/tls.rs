//! TLS on the API port: `OPENORCH_TLS_CERT` and `OPENORCH_TLS_KEY`.

use std::{fs, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use openorch_chassis::{Error, Result};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

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

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.load_full().into()
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
