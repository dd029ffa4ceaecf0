//! TLS to the database: what each `sslmode` accepts and refuses, against a server with a test certificate.

use openorch_store::{Batch, PostgresOptions, StoreError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{Server, opened, refused};
use crate::{THINGS, suite::ask};

/// A certificate authority.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn server(certificate: &str, key: &str) -> Option<Server> {
    let mut server = Server::create(None, &["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"])?;
    server.write("server.crt", certificate);
    server.write("server.key", key);
    server.start().await;
    Some(server)
}

async fn is_encrypted(server: &Server, options: PostgresOptions) -> bool {
    let store = opened(options).await;
    store.commit(Batch::new().create(THINGS.name, "a", "{}")).await.unwrap();
    assert_eq!(store.count(THINGS.name, &[]).await, Ok(1));
    let sql = "SELECT bool_and(ssl), count(*) > 2 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE application_name LIKE 'openorch pid %'";
    let row = ask(&server.connection(), sql).await.remove(0);
    assert_eq!(row[1], "t", "several connections");
    store.close().await;
    row[0] == "t"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_believes_whom_it_should() {
    let key = KeyPair::generate().unwrap();
    let (ours, another) = (authority(), authority());
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &ours).unwrap();
    let Some(server) = server(&certificate.pem(), &key.serialize_pem()).await else { return };
    let roots = server.write("roots.crt", &ours.pem());
    let others = server.write("others.crt", &another.pem());
    let of = |host: &str, options: &str| PostgresOptions::new(format!("{}?{options}", server.at(host)));
    let by = |roots: &std::path::Path| format!("&sslrootcert={}", roots.display());
    for (host, mode, encrypted) in [
        ("localhost", "sslmode=disable".to_owned(), false),
        ("localhost", "sslmode=prefer".to_owned(), true),
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        ("127.0.0.1", "sslmode=verify-ca".to_owned() + &by(&roots), true),
        ("localhost", "sslmode=verify-full".to_owned() + &by(&roots), true),
    ] {
        assert_eq!(is_encrypted(&server, of(host, &mode)).await, encrypted, "{host} {mode}");
    }
    for (host, mode) in [
        // Another host name than in the certificate; another authority; another authority; the authorities of the
        // system.
        ("127.0.0.1", "sslmode=verify-full".to_owned() + &by(&roots)),
        ("localhost", "sslmode=verify-full".to_owned() + &by(&others)),
        ("localhost", "sslmode=verify-ca".to_owned() + &by(&others)),
        ("localhost", "sslmode=verify-full".to_owned()),
    ] {
        let start = std::time::Instant::now();
        let error = refused(of(host, &mode)).await;
        let told = matches!(&error, StoreError::Unavailable(text) if text.contains("refused the connection") && text.contains("sslrootcert"));
        assert!(told, "{host} {mode}: {error:?}");
        assert!(start.elapsed().as_secs() < 5, "a certificate error is not retried");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_vouches_for_itself_is_believed_where_it_is_named() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    // Like the openssl command in the manual of PostgreSQL.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let Some(server) = server(&certificate.pem(), &key.serialize_pem()).await else { return };
    let roots = server.write("roots.crt", &certificate.pem());
    let connection = format!("{}?sslmode=verify-full&sslrootcert={}", server.at("localhost"), roots.display());
    assert!(is_encrypted(&server, PostgresOptions::new(connection)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_refused_where_it_is_required() {
    let Some(server) = Server::new().await else { return };
    let of = |mode: &str| PostgresOptions::new(format!("{}?sslmode={mode}", server.connection()));
    let error = refused(of("require")).await;
    let told = matches!(&error, StoreError::Unavailable(text) if text.contains("TLS") && text.contains("sslmode"));
    assert!(told, "{error:?}");
    assert!(!is_encrypted(&server, of("prefer")).await);
}
