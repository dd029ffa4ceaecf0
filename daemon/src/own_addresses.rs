//! The addresses of the servers that only the daemon itself may use: its listener, its database and its mail server. Instance
//! URLs must not point to them (decision "Instance addresses").

use std::{net::SocketAddr, sync::Arc, time::Duration};

use openorch_chassis::outbound::Outbound;
use tokio::time::{sleep, timeout};

use crate::{Settings, StartError, engine};

/// Timeout for resolving a host name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval at which the names are resolved again, since servers move.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// The ports at which mail servers accept mail. A mail server usually serves several of them.
const MAIL_PORTS: [u16; 3] = [25, 465, 587];

pub struct OwnAddresses {
    outbound: Arc<Outbound>,
    listener: SocketAddr,
    servers: Vec<Server>,
}

struct Server {
    /// `host:port`.
    host: String,
    /// More ports of the same server.
    ports: &'static [u16],
    /// As of the last successful lookup.
    addresses: Vec<SocketAddr>,
}

impl OwnAddresses {
    /// Resolves the names and passes the addresses to `outbound`.
    pub async fn new(
        settings: &Settings,
        listener: SocketAddr,
        outbound: Arc<Outbound>,
    ) -> Result<OwnAddresses, StartError> {
        let databases = engine::hosts(settings)?.into_iter().map(|host| (host, &[][..]));
        let mail = settings.mail_server().map(|(host, port)| {
            let port = port.unwrap_or(MAIL_PORTS[0]);
            let host = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            (host, &MAIL_PORTS[..])
        });
        let servers =
            databases.chain(mail).map(|(host, ports)| Server { host, ports, addresses: Vec::new() }).collect();
        let mut own = OwnAddresses { outbound, listener, servers };
        own.refresh().await;
        for unknown in own.servers.iter().filter(|server| server.addresses.is_empty()) {
            tracing::warn!("cannot resolve `{}`; instance URLs that point to it are not rejected", unknown.host);
        }
        Ok(own)
    }

    /// Resolves the names again at intervals.
    pub async fn keep_resolved(mut self) {
        loop {
            sleep(REFRESH_INTERVAL).await;
            self.refresh().await;
        }
    }

    /// If a name does not resolve, its previous addresses are kept.
    async fn refresh(&mut self) {
        for server in &mut self.servers {
            if let Ok(Ok(found)) = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(&server.host)).await {
                server.addresses = found.collect();
            }
        }
        let of_servers = self.servers.iter().flat_map(|server| {
            let more = |address: &SocketAddr| {
                let ip = address.ip();
                server.ports.iter().map(move |port| SocketAddr::new(ip, *port))
            };
            server.addresses.iter().copied().chain(server.addresses.iter().flat_map(more))
        });
        self.outbound.set_own_addresses(of_servers.chain([self.listener]).collect());
    }
}
