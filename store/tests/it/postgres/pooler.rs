//! Connection poolers: one in transaction mode is refused, one in session mode works.

use std::process::{Child, Stdio};

use openorch_store::{PostgresOptions, PostgresStore, StoreError};
use openorch_test_support::free_address;
use serde_json::json;

use super::{Server, opened, refused, until};
use crate::{body, suite::skip, thing};

/// A PgBouncer in front of a server.
struct Pooler {
    child: Child,
    port: u16,
}

impl Pooler {
    /// `None` if there is no PgBouncer, which is reported.
    fn start(server: &Server, mode: &str, more: &str) -> Option<Pooler> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists());
        let Some(program) = program else {
            skip("the tests with a pooler", "there is no pgbouncer (Debian package pgbouncer)");
            return None;
        };
        let port = free_address().port();
        let config = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=openorch\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n{more}\n",
            server.port()
        );
        let config = server.write(&format!("pgbouncer-{port}.ini"), &config);
        let mut command = server.as_owner(program);
        let child = command.arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Pooler { child, port })
    }

    async fn options(&self) -> PostgresOptions {
        until("the pooler", async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()).await;
        PostgresOptions::new(format!("postgres://openorch@127.0.0.1:{}/postgres?sslmode=disable", self.port))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // Fails if it has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_gives_each_transaction_another_session_is_named() {
    let Some(server) = Server::new().await else { return };
    for more in ["", "default_pool_size = 1", "server_round_robin = 1", "min_pool_size = 10"] {
        let Some(pooler) = Pooler::start(&server, "transaction", more) else { return };
        let options = pooler.options().await;
        for _ in 0..3 {
            let error = refused(options.clone()).await;
            let all = ["PgBouncer", "pool_mode=transaction", "the server itself", &pooler.port.to_string()];
            let named = |text: &str| all.iter().all(|word| text.contains(word));
            assert!(matches!(&error, StoreError::Unavailable(text) if named(text)), "{more}: {error:?}");
        }
    }
    // The refused starts created nothing.
    let store = opened(PostgresOptions::new(server.connection())).await;
    assert!(!store.is_seeded());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_keeps_sessions_apart_is_worked_with() {
    let Some(server) = Server::new().await else { return };
    let Some(pooler) = Pooler::start(&server, "session", "default_pool_size = 50") else { return };
    let store = opened(pooler.options().await).await;
    store.commit(thing("a", json!({"rank": 1}))).await.unwrap();
    assert_eq!(body(&store, "a").await, Some(json!({"rank": 1})));
    let second = PostgresStore::open(pooler.options().await).await.err();
    assert!(matches!(second, Some(StoreError::InUse(_))), "{second:?}");
    store.close().await;
}
