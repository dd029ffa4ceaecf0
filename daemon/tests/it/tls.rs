//! TLS on the API port, and instances behind https. Certificates are made for the test.

use std::{fs, io::BufRead, path::Path, sync::Arc};

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::process::{Process, command, run};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    fn certify(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new([name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A client that trusts this authority alone.
    fn client(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.0.pem().as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only([root]).build().unwrap()
    }
}

/// A daemon with a certificate for `localhost` by this authority.
fn run_with_tls(folder: &Path, authority: &Authority) -> Process {
    let (certificate, key) = authority.certify("localhost");
    run(command(&folder.join("data"))
        .env("OPENORCH_TLS_CERT", write(folder, "cert.pem", &certificate.pem()))
        .env("OPENORCH_TLS_KEY", write(folder, "key.pem", &key.serialize_pem())))
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Registers an account and its instance over the API; answers what the registration of the instance was answered.
async fn put(client: &reqwest::Client, url: &str, slug: &str, instance: &str) -> String {
    let account = json!({ "slug": slug, "password": "p" }).to_string();
    let made = client.post(format!("{url}/user-svc/register")).body(account).send().await.unwrap();
    let made: serde_json::Value = serde_json::from_str(&made.text().await.unwrap()).unwrap();
    let token = made["token"]["token"].as_str().unwrap();
    let put = client.put(format!("{url}/registry-svc/instance")).bearer_auth(token);
    let put = put.header("openorch-extended", "1").body(json!({ "url": instance }).to_string());
    put.send().await.unwrap().text().await.unwrap()
}

/// A server that answers every connection with one word over TLS.
async fn https_service(authority: &Authority, name: &str) -> String {
    let (certificate, key) = authority.certify(name);
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecure").await.unwrap();
                }
            });
        }
    });
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn the_api_port_speaks_tls_when_it_has_a_certificate() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    let process = run_with_tls(folder.path(), &authority);
    assert!(process.url.starts_with("https://127.0.0.1:"), "{}", process.url);
    let (client, url) = (authority.client(), process.url.replace("127.0.0.1", "localhost"));
    let service = crate::support::Echo::start().await;
    put(&client, &url, "tls-svc", &service.url).await;
    let answer = client.get(format!("{url}/tls-svc/x")).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2, "over TLS the newer HTTP is agreed on");
    let head = answer.text().await.unwrap().to_lowercase();
    assert!(head.contains("x-forwarded-proto: https") && head.contains("proto=https"), "{head}");
    assert!(reqwest::get(process.url.replace("https", "http")).await.is_err(), "plain HTTP is not served there");
}

#[tokio::test]
async fn w154_where_http2_was_agreed_on_nothing_else_is_spoken() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    let process = run_with_tls(folder.path(), &authority);
    let address = process.url.strip_prefix("https://").unwrap().to_owned();
    let speak = async |protocol: &[u8], text: &[u8]| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(authority.0.der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
        stream.write_all(text).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is closed without a farewell is closed too.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(speak(b"http/1.1", request).await.starts_with("HTTP/1.1 200"));
    let answer = speak(b"h2", request).await;
    assert!(!answer.contains("HTTP/1.1"), "{answer:?}");
}

#[tokio::test]
async fn an_instance_behind_https_is_verified_and_reached() {
    let folder = TempDir::new().unwrap();
    let (trusted, other) = (Authority::new(), Authority::new());
    let roots = write(folder.path(), "roots.pem", &trusted.0.pem());
    let process = run(command(&folder.path().join("data")).env("SSL_CERT_FILE", roots));
    let client = reqwest::Client::new();
    let good = https_service(&trusted, "localhost").await;
    let answer = put(&client, &process.url, "good-svc", &good).await;
    assert!(answer.contains("Healthy"), "{answer}");
    let secure = client.get(format!("{}/good-svc/x", process.url)).send().await.unwrap();
    assert_eq!(secure.text().await.unwrap(), "secure");
    for (slug, instance) in [
        ("unknown-svc", https_service(&other, "localhost").await),
        ("misnamed-svc", https_service(&trusted, "example.org").await),
    ] {
        let answer = put(&client, &process.url, slug, &instance).await;
        assert!(answer.contains("Unreachable"), "{slug}: {answer}");
    }
}

#[tokio::test]
async fn a_hangup_reloads_certificate_and_log_level_and_cuts_nothing() {
    let folder = TempDir::new().unwrap();
    let (before, after) = (Authority::new(), Authority::new());
    let put_files = |authority: &Authority| {
        let (certificate, key) = authority.certify("localhost");
        let certificate = write(folder.path(), "cert.pem", &certificate.pem());
        (certificate, write(folder.path(), "key.pem", &key.serialize_pem()))
    };
    let (certificate, key) = put_files(&before);
    let file = write(folder.path(), "config.toml", "log = \"info\"");
    let mut process = run(command(&folder.path().join("data"))
        .env("OPENORCH_TLS_CERT", &certificate)
        .env("OPENORCH_TLS_KEY", &key)
        .env("OPENORCH_CONFIG", &file)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped()));
    let mut log = std::io::BufReader::new(process.child.stderr.take().unwrap()).lines();
    let mut next_line = |with: &str| log.by_ref().map(Result::unwrap).find(|line| line.contains(with)).unwrap();
    let health = format!("{}/health", process.url.replace("127.0.0.1", "localhost"));
    // One connection is open over the whole time.
    let open = before.client();
    assert_eq!(open.get(&health).send().await.unwrap().status(), 200);

    put_files(&after);
    write(folder.path(), "config.toml", "log = \"debug\"");
    process.hang_up();
    next_line("reloaded");
    assert_eq!(after.client().get(&health).send().await.unwrap().status(), 200);
    assert!(before.client().get(&health).send().await.is_err(), "the certificate from before is not shown any more");
    assert_eq!(open.get(&health).send().await.unwrap().status(), 200, "what was open goes on");
    assert_eq!(open.get(health.replace("health", "user-svc/roles")).send().await.unwrap().status(), 401);
    next_line("DEBUG");

    // Files that cannot be used change nothing.
    write(folder.path(), "cert.pem", "no certificate");
    process.hang_up();
    assert!(next_line("cannot be reloaded").contains("cert.pem contains no PEM certificate"));
    assert_eq!(after.client().get(&health).send().await.unwrap().status(), 200);
}
