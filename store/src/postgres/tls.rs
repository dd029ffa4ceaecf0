//! TLS to the database: verification of server certificates. The modes are those of libpq's `sslmode`.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Result, StoreError};

/// How the server certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateCheck {
    /// Not at all: `prefer` and `require` only protect against passive eavesdropping.
    Skip,
    /// It must be issued by a trusted authority: `verify-ca`.
    Authority,
    /// It must also be issued for the host name: `verify-full`.
    AuthorityAndHost,
}

/// A TLS connector that trusts the authorities in a file, or those of the system.
pub(super) fn connector(trust: CertificateCheck, roots: Option<&Path>) -> Result<MakeRustlsConnect> {
    let certificates = match (trust, roots) {
        (CertificateCheck::Skip, _) => Vec::new(),
        (_, Some(path)) => read_certificates(path)?,
        (_, None) => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = RootCertStore::empty();
    let (believed, _) = store.add_parsable_certificates(certificates.iter().cloned());
    if trust != CertificateCheck::Skip && believed == 0 {
        return Err(match roots {
            Some(path) => StoreError::Invalid(format!("`{}` (sslrootcert) contains no certificate", path.display())),
            None => StoreError::Invalid(
                "this system has no certificate authorities to verify the database with; install the package \
                 ca-certificates, or set sslrootcert"
                    .into(),
            ),
        });
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier { trust, certificates, store, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Internal(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // Required by `sslnegotiation=direct`; other servers ignore it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| StoreError::Invalid(format!("`{}` (sslrootcert) cannot be read: {error}", path.display())))
}

#[derive(Debug)]
struct Verifier {
    trust: CertificateCheck,
    certificates: Vec<CertificateDer<'static>>,
    store: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        if self.trust == CertificateCheck::Skip {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        // The manual of PostgreSQL describes self-signed server certificates. rustls treats them as authorities, which
        // must not be used by a server; but a certificate that is itself trusted needs no issuer.
        if !self.certificates.contains(end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.store, intermediates, now, algorithms)?;
        }
        if self.trust == CertificateCheck::AuthorityAndHost {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
