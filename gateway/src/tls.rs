//! TLS on the API port: `OPENORCH_TLS_CERT` and `OPENORCH_TLS_KEY`.

use std::{fs, path::Path, sync::Arc};

use openorch_chassis::{Error, Result};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Reads a chain of certificates and its key, both PEM.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
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
