//! Assembles the daemon: one list of services, one list of adapters. It serves only after everything is in place.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicBool},
};

use openorch_chassis::{
    Audit, BoxFuture, BuiltService, Builtin, Platform, RequestMonitor,
    clock::Clock,
    encryption::Encryptor,
    events::EventStreams,
    expiry::ExpiryGrace,
    idempotency::{self, IdempotencyStore},
    ids::Ids,
    metrics::Registry,
    outbound::Outbound,
    router::Router,
    service::{Hooks, supervise},
};
use openorch_gateway::{Gateway, Metrics, RequestLog, RoutingTable, Server, Tls};
use openorch_services::{MODULES, platform, registry, user};
use openorch_store::{Collection, Store};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use crate::{
    Settings, VERSION, engine, online_backup::Backups, own_addresses::OwnAddresses, server_time::StoreClock,
    settings::Engine, store_metrics::MeteredStore,
};

/// Capacity of the queue of unreachable instances to probe; regular probes find the rest.
const UNREACHABLE_QUEUE: usize = 1024;

/// Why the daemon cannot start, with the remedy.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl From<openorch_store::StoreError> for StartError {
    fn from(error: openorch_store::StoreError) -> StartError {
        StartError(error.to_string())
    }
}

impl From<user::StartError> for StartError {
    fn from(error: user::StartError) -> StartError {
        StartError(error.to_string())
    }
}

impl From<openorch_chassis::Error> for StartError {
    fn from(error: openorch_chassis::Error) -> StartError {
        // The message of an internal error is for callers; its cause has the details.
        StartError(match error.cause {
            Some(cause) => cause.to_string(),
            None => error.message.into_owned(),
        })
    }
}

/// A running daemon.
pub struct Running {
    /// The address it is bound to.
    pub address: SocketAddr,
    /// The data was empty at the start.
    pub is_first_start: bool,
    /// Who may register.
    pub registration: user::Registration,
    /// Strength of the stored passwords, as far as known.
    pub passwords: user::PasswordCounts,
    /// Why it listens on loopback only although configured otherwise, with the remedy.
    restricted_reason: Option<String>,
    /// Whether the admin still has the default password.
    pub default_password: Arc<AtomicBool>,
    tls: Option<Arc<Tls>>,
    stop: oneshot::Sender<()>,
    server_task: JoinHandle<()>,
}

impl Running {
    /// Applies the settings that can change at runtime: the certificate.
    pub fn reload(&self, settings: &Settings) -> Result<(), StartError> {
        match (&self.tls, settings.tls_files()) {
            (Some(tls), Some((certificate, key))) => Ok(tls.reload(certificate, key)?),
            (None, None) => Ok(()),
            _ => Err(StartError("turning TLS on or off requires a restart".into())),
        }
    }

    /// Why it listens on loopback only although configured otherwise, with the remedy.
    pub fn restricted_reason(&self) -> Option<&str> {
        self.restricted_reason.as_deref()
    }

    /// Waits until the server ends without a stop, which is a fault.
    pub async fn ended(&mut self) {
        // A panic in the task is already logged.
        let _ = (&mut self.server_task).await;
    }

    /// Stops gracefully: drains requests, then closes the store.
    pub async fn stop(self) {
        // If the receiver is gone, the server has already stopped.
        let _ = self.stop.send(());
        // A panic in the task is already logged.
        let _ = self.server_task.await;
    }
}

/// Starts the daemon; it serves once this returns.
pub async fn start(mut settings: Settings, clock: Arc<dyn Clock>) -> Result<Running, StartError> {
    crate::settings::fit_open_files(&mut settings.gateway.http);
    // Bound first, so that a port in use is reported before any side effect.
    let listener = bind(settings.listen()).await?;
    let location = engine::location(&settings);
    if settings.engine() == Engine::Postgres {
        settings.secrets.configured_key()?;
    }
    let store = engine::open(&settings).await?;
    match assemble(settings, clock, listener, store.clone()).await {
        Ok(running) => Ok(running),
        Err(error) => {
            store.close().await;
            Err(StartError(format!("{error} (the data is in {location})")))
        }
    }
}

/// The collections of all services.
pub(crate) fn collections() -> Vec<Collection> {
    let of_modules = MODULES.iter().flat_map(|module| module.collections);
    let of_chassis = [&idempotency::ANSWERS];
    user::collections().iter().chain(of_modules).copied().chain(of_chassis).copied().collect()
}

async fn assemble(
    settings: Settings,
    clock: Arc<dyn Clock>,
    listener: TcpListener,
    store: Arc<dyn Store>,
) -> Result<Running, StartError> {
    let registry = Arc::new(Registry::new(VERSION));
    let is_first_start = !store.is_seeded();
    store.open_collections(&collections()).await?;
    let time = StoreClock::for_store(&*store, clock).await?;
    let clock = time.clock.clone();
    let store: Arc<dyn Store> = Arc::new(MeteredStore::new(store, &registry));
    let key = match settings.engine() {
        Engine::Sqlite => settings.secrets.encryption_key(&settings.server_dir(), is_first_start)?,
        Engine::Postgres => settings.secrets.configured_key()?,
    };
    let seal = Encryptor::new(&key);
    let ids = Arc::new(Ids::new(clock.clone()));
    let audit = Arc::new(Audit::new(store.clone(), clock.clone(), ids.clone(), &user::ACCOUNTS));
    audit.register(&registry);
    let newest = audit.newest().await?.max(registry::last_heartbeat(&store).await?);
    let grace_left = user::stored_clock_grace(&store).await?;
    let ages =
        Arc::new(ExpiryGrace::new(clock.clone(), newest.map(|time| time.0), grace_left, settings.expiry.clone()));
    let limits = idempotency::Limits {
        per_account: settings.api.max_stored_answers_per_account,
        total: settings.api.max_stored_answers,
    };
    let repeats = IdempotencyStore::new(store.clone(), clock.clone(), ages.clone(), seal.clone(), limits);
    let outbound = Arc::new(Outbound::new(settings.outbound.clone()));
    let table = Arc::new(RoutingTable::new());
    let mut platform = Platform {
        store: store.clone(),
        clock: clock.clone(),
        expiry: ages,
        ids: ids.clone(),
        encryptor: seal,
        audit: audit.clone(),
        metrics: registry.clone(),
        mailer: settings.mailer()?,
        outbound: outbound.clone(),
        routes: table.clone(),
        node: settings.node_place(local_addr(&listener)?)?,
        max_unpaged_list: settings.api.max_unpaged_list,
        raw_settings: settings.given.clone(),
    };

    let asked_loopback = settings.listen().ip().is_loopback();
    let loopback_only = asked_loopback || settings.secrets.has_published_key();
    let seeded = user::seed(&platform, settings.secrets.admin_password.clone(), loopback_only).await?;
    let reason = loopback_reason(seeded.has_default_password, settings.secrets.has_published_key());
    let held_back = reason.clone().filter(|_| !asked_loopback);
    let listener = if held_back.is_some() {
        let port = local_addr(&listener)?.port();
        drop(listener);
        bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).await?
    } else {
        listener
    };
    let address = local_addr(&listener)?;
    platform.node = settings.node_place(address)?;
    let own_addresses = OwnAddresses::new(&settings, address, outbound.clone()).await?;

    let mut services: Vec<BuiltService> = Vec::new();
    for module in MODULES {
        services.push((module.start)(&platform).await?);
    }
    let own_key = match settings.engine() {
        Engine::Sqlite => settings.secrets.generated_key(&settings.server_dir())?,
        Engine::Postgres => None,
    };
    let monitor = Arc::new(RequestMonitor::new(*settings.events.max_queue_bytes, clock.clone()));
    let backups = Backups::new(store.clone(), clock, ids, settings.server_dir(), own_key);
    let backup = Box::new(move || -> BoxFuture<'static, _> { Box::pin(backups.clone().make()) });
    let batches = platform::BatchLimits {
        max_batch_answer_bytes: *settings.api.max_batch_answer_bytes,
        batch_timeout: settings.api.batch_timeout,
    };
    let own_paths = platform::Platform::new(
        store.clone(),
        registry.clone(),
        backup,
        repeats.clone(),
        batches,
        monitor.clone(),
        VERSION,
    );
    services.push(platform::service(own_paths));
    let hooks = Hooks::of(&services);
    let default_password = Arc::new(AtomicBool::new(false));
    let users = user::open(&platform, seeded, hooks.clone(), default_password.clone()).await?;
    let (registration, identity) = (users.registration(), users.identity());
    let passwords = users.password_counts().await?;
    log_weak_passwords(passwords, asked_loopback || held_back.is_some());
    services.push(user::service(users));
    let mut tasks = JoinSet::new();
    for task in services.iter_mut().flat_map(|service| std::mem::take(&mut service.tasks)) {
        tasks.spawn(supervise(task));
    }
    tasks.spawn(time.keep_synchronized(store.clone()));
    tasks.spawn(own_addresses.keep_resolved());
    let (suspects, mut suspected) = mpsc::channel::<Arc<str>>(UNREACHABLE_QUEUE);
    tasks.spawn(async move {
        while let Some(instance_id) = suspected.recv().await {
            hooks.unreachable.iter().for_each(|hook| hook.unreachable(&instance_id));
        }
    });

    let streams = EventStreams::new(settings.events.clone());
    let router =
        Router::new(services, identity.clone(), audit.clone(), repeats, settings.api.clone(), streams, &registry);
    let builtin: Arc<dyn Builtin> = Arc::new(router);
    let metrics = Arc::new(Metrics::default());
    metrics.register(&registry, &table, &settings.gateway.http);
    let tls = settings.tls()?;
    let gateway = Arc::new(Gateway {
        table,
        identity,
        builtin,
        outbound,
        unreachable_reports: suspects,
        loopback_only: if settings.secrets.has_published_key() {
            Arc::new(AtomicBool::new(true))
        } else {
            default_password.clone()
        },
        remedy: reason.unwrap_or_default(),
        metrics,
        log: RequestLog::default(),
        monitor,
        tls: tls.clone(),
        settings: settings.gateway.clone(),
    });
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(async move {
        let shutdown = async {
            // A dropped sender stops it too.
            let _ = stopped.await;
        };
        Server::new(gateway).run(vec![listener], shutdown).await;
        tasks.shutdown().await;
        audit.flush_aggregated(true).await;
        store.close().await;
    });
    Ok(Running {
        address,
        is_first_start,
        registration,
        passwords,
        restricted_reason: held_back,
        default_password,
        tls,
        stop,
        server_task: served,
    })
}

/// Logs how many accounts have a password too weak for sign-in over the network (decision "Sign-in from elsewhere").
fn log_weak_passwords(counts: user::PasswordCounts, only_loopback: bool) {
    let user::PasswordCounts { too_weak, unknown } = counts;
    if too_weak + unknown == 0 {
        return;
    }
    let text = format!(
        "accounts whose password is too weak to sign in with over the network: {too_weak} known, {unknown} unknown (set by an \
         older version and not used since)"
    );
    match only_loopback {
        true => tracing::info!("{text}; this does not matter while only loopback is served"),
        false => {
            tracing::warn!("{text}; such sign-ins are refused: change these passwords on this machine, or reset them")
        }
    }
}

/// Why only loopback is served, and the remedy (decision "Restricted mode").
fn loopback_reason(default_password: bool, published_key: bool) -> Option<String> {
    let password = "the admin's password is the default one: change it on this machine with \
                    POST /user-svc/change-password, or start the daemon with OPENORCH_ADMIN_PASSWORD";
    let key = "the encryption key is the published one: start the daemon with another OPENORCH_ENCRYPTION_KEY";
    match (default_password, published_key) {
        (false, false) => None,
        (true, false) => Some(password.into()),
        (false, true) => Some(key.into()),
        (true, true) => Some(format!("{password}; and {key}")),
    }
}

/// Sets the password of an admin while no daemon uses the data.
pub async fn reset_admin_password(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    slug: &str,
    password: &str,
) -> Result<(), StartError> {
    let folder = settings.server_dir();
    if settings.engine() == Engine::Sqlite && !folder.exists() {
        return Err(StartError(format!("no data in {}; start the daemon first", folder.display())));
    }
    let store = engine::open(settings).await?;
    let collections: Vec<Collection> = user::collections().iter().map(|collection| **collection).collect();
    let outcome = async {
        store.open_collections(&collections).await?;
        let clock = StoreClock::for_store(&*store, clock).await?.clock;
        let loopback_only = settings.listen().ip().is_loopback();
        let rules = (
            user::PasswordRules::from_settings(&settings.user, loopback_only),
            user::PasswordRules::from_settings(&settings.user, false),
        );
        Ok(user::reset_admin_password(store.clone(), &*clock, rules, slug, password).await?)
    };
    let outcome = outcome.await;
    store.close().await;
    outcome
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| {
        StartError(match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "{address} is in use by another program: stop it, or choose another address with OPENORCH_LISTEN (--listen)"
            ),
            _ => format!("listening on {address} failed: {error}; choose another address with OPENORCH_LISTEN (--listen)"),
        })
    })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError(format!("cannot determine the listening address: {error}")))
}
