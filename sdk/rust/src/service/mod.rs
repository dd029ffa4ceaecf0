//! The service kit: runs axum handlers or any tower service as a service of the platform. `platform.rs` is the API for
//! handlers.

mod api_error;
mod credentials;
mod guard;
mod lifecycle;
mod logging;
mod permission;
mod platform;
mod request_layer;
mod token;

use std::{
    collections::BTreeSet, env, future::Future, path::PathBuf, pin::pin, process::ExitCode, sync::Arc, time::Duration,
};

pub use api_error::ApiError;
/// The web framework for routes and handlers.
pub use axum;
use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::IntoResponse,
    routing::{MethodRouter, get},
};
use credentials::AnyCredentialStore;
pub use guard::PermissionGuard;
pub use platform::Platform;
pub use token::{Caller, TokenVerifier};
use tokio::{net::TcpListener, sync::oneshot};
use url::Url;

use crate::{ClientFactory, CredentialStore, Error, FileCredentialStore, SdkSettings};

/// Default path for the daemon's health checks.
const DEFAULT_HEALTH_PATH: &str = "/health";
/// Default time for requests in flight to finish at shutdown.
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// A service: its name and its routes. [`run`](Service::run) does the rest: account and credential, instance registration
/// with heartbeats, health checks, tracing, logging and graceful shutdown.
///
/// Environment variables: `OPENORCH_URL` is the URL of the daemon. `SELF_URL` is the URL at which the daemon reaches this
/// service, which also listens there (by default on a free loopback port). `OPENORCH_LOG` is the log filter, for example
/// `info,my_crate=debug`. The credential is stored in `~/.openorch/credentials`.
///
/// ```no_run
/// use openorch_sdk::service::{Service, axum::routing::get};
///
/// #[tokio::main]
/// async fn main() -> std::process::ExitCode {
///     Service::new("skeleton-svc").route("/skeleton-svc/hello", get(async || "hello")).run().await
/// }
/// ```
#[must_use = "a service does nothing until it is run"]
pub struct Service {
    slug: String,
    name: String,
    router: Router,
    paths: BTreeSet<String>,
    has_fallback: bool,
    health_path: String,
    daemon: Option<String>,
    advertise_url: Option<String>,
    listen: Option<String>,
    credentials: Option<AnyCredentialStore>,
    permissions: Vec<permission::DeclaredPermission>,
    drain: Duration,
    /// The first configuration error, which `run` returns.
    config_error: Option<String>,
}

impl Service {
    /// A service whose account has this slug: the gateway routes requests to `/<slug>/…` to it.
    ///
    /// ```
    /// let service = openorch_sdk::service::Service::new("skeleton-svc");
    /// ```
    pub fn new(slug: &str) -> Service {
        Service {
            slug: slug.to_owned(),
            name: display_name_of(slug),
            router: Router::new(),
            paths: BTreeSet::new(),
            has_fallback: false,
            health_path: DEFAULT_HEALTH_PATH.to_owned(),
            daemon: None,
            advertise_url: None,
            listen: None,
            credentials: None,
            permissions: Vec::new(),
            drain: DEFAULT_DRAIN,
            config_error: openorch_api::Slug::parse(slug).err().map(|error| error.to_string()),
        }
    }

    /// The display name of the account; derived from the slug by default.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("crm-svc").display_name("Customer Relations");
    /// ```
    pub fn display_name(mut self, name: &str) -> Service {
        self.name = name.to_owned();
        self
    }

    /// Adds a route. `path` must start with the slug and may contain `{parameters}`. All methods of a path must be given in
    /// one call: `get(list).post(create)`. Handlers may extract [`Platform`] and [`Caller`].
    ///
    /// ```
    /// use openorch_sdk::service::{Caller, Service, axum::{extract::Path, routing::get}};
    ///
    /// async fn thing(caller: Caller, Path(id): Path<String>) -> String {
    ///     format!("{id}, for {}", caller.slug())
    /// }
    /// let service = Service::new("skeleton-svc").route("/skeleton-svc/thing/{id}", get(thing));
    /// ```
    pub fn route(mut self, path: &str, methods: MethodRouter) -> Service {
        let reachable = path.strip_prefix('/').and_then(|rest| rest.strip_prefix(&self.slug));
        if !reachable.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            self.config_error.get_or_insert(format!(
                "the path `{path}` is unreachable: the gateway only routes paths that start with `/{}/` to this service",
                self.slug
            ));
        } else if let Some(why) = invalid_path_reason(path) {
            self.config_error.get_or_insert(format!("invalid route `{path}`: {why}"));
        } else if !self.paths.insert(path_shape(path)) {
            self.config_error
                .get_or_insert(format!("the path `{path}` has two routes; combine their methods: get(…).post(…)"));
        } else {
            self.router = self.router.route(path, methods);
        }
        self
    }

    /// Declares a permission of this service and the roles that have it. It is saved and assigned to them at each start,
    /// before the service receives requests. `order:view` is short for `<slug>:order:view`. Assignments to other roles by
    /// an admin are kept.
    ///
    /// ```
    /// use openorch_sdk::{api::role, service::{Service, axum::routing::get}};
    ///
    /// let service = Service::new("shop-svc")
    ///     .permission("order:view", "See all orders.", &[role::ADMIN, role::USER])
    ///     .route_with_permission("/shop-svc/orders", "order:view", get(async || "all orders"));
    /// ```
    ///
    /// The service fails to start with [`Error::Service`] if the permission is not under its own slug, and with
    /// [`Error::Refused`], which names `savePermissions` or `assignPermissions`, if the daemon rejects it.
    pub fn permission(mut self, id: &str, description: &str, roles: &[&str]) -> Service {
        let id = permission::qualified_id(&self.slug, id);
        if let Some(why) = permission::id_error(&self.slug, &id) {
            self.config_error.get_or_insert(why);
        }
        let roles = roles.iter().map(|role| role.to_string()).collect();
        self.permissions.push(permission::DeclaredPermission { id, description: description.to_owned(), roles });
        self
    }

    /// Adds a [`route`](Self::route) that requires a permission, of this or another service: other callers receive 401 or
    /// 403. The service's own permissions may be abbreviated as in [`permission`](Self::permission).
    ///
    /// ```
    /// use openorch_sdk::service::{Service, axum::routing::get};
    ///
    /// let service = Service::new("skeleton-svc")
    ///     .route_with_permission("/skeleton-svc/things", "thing:view", get(async || "all things"))
    ///     .route_with_permission("/skeleton-svc/users", "user-svc:user:view", get(async || "all users"));
    /// ```
    pub fn route_with_permission(self, path: &str, permission: &str, methods: MethodRouter) -> Service {
        let permission: Arc<str> = permission::qualified_id(&self.slug, permission).into();
        let guard = move |platform: Platform, caller: Caller, request: Request, next: Next| {
            request_layer::require_permission(Arc::clone(&permission), platform, caller, request, next)
        };
        self.route(path, methods.route_layer(middleware::from_fn(guard)))
    }

    /// Handles requests that match no route with any tower service, for example an [`axum::Router`].
    ///
    /// ```
    /// use openorch_sdk::service::{Service, axum::{Router, routing::get}};
    ///
    /// let router = Router::new().route("/skeleton-svc/hello", get(async || "hello"));
    /// let service = Service::new("skeleton-svc").fallback_service(router);
    /// ```
    pub fn fallback_service<T>(mut self, service: T) -> Service
    where
        T: tower_service::Service<Request, Error = std::convert::Infallible> + Clone + Send + Sync + 'static,
        T::Response: IntoResponse,
        T::Future: Send + 'static,
    {
        self.router = self.router.fallback_service(service);
        self.has_fallback = true;
        self
    }

    /// Sets the path that the daemon probes. The service must handle it: 2xx means healthy; after other responses no requests
    /// are routed to it. The default is `/health`, which the kit handles.
    ///
    /// ```
    /// use openorch_sdk::service::{Service, axum::routing::get};
    ///
    /// let service = Service::new("skeleton-svc")
    ///     .route("/skeleton-svc/ready", get(async || "the cache is warm"))
    ///     .health_path("/skeleton-svc/ready");
    /// ```
    pub fn health_path(mut self, path: &str) -> Service {
        self.health_path = path.to_owned();
        self
    }

    /// The URL of the daemon, instead of `OPENORCH_URL`.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").daemon("http://127.0.0.1:58231");
    /// ```
    pub fn daemon(mut self, url: &str) -> Service {
        self.daemon = Some(url.to_owned());
        self
    }

    /// The URL at which the daemon reaches this service, instead of `SELF_URL`.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").advertise_url("http://127.0.0.1:9311");
    /// ```
    pub fn advertise_url(mut self, url: &str) -> Service {
        self.advertise_url = Some(url.to_owned());
        self
    }

    /// The address to listen on, if it differs from the advertised URL, for example in a container.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").listen("0.0.0.0:9311").advertise_url("http://skeleton:9311");
    /// ```
    pub fn listen(mut self, address: &str) -> Service {
        self.listen = Some(address.to_owned());
        self
    }

    /// Stores the credential in this directory instead of `~/.openorch/credentials`.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").credential_dir("/var/lib/skeleton-svc");
    /// ```
    pub fn credential_dir(self, directory: impl Into<PathBuf>) -> Service {
        let store = FileCredentialStore::new(directory.into(), &self.slug);
        self.credentials(store)
    }

    /// Stores the credential in this store instead of a file, for example in the service's own datastore.
    ///
    /// ```
    /// # use openorch_sdk::{MemoryCredentialStore, service::Service};
    /// let service = Service::new("skeleton-svc").credentials(MemoryCredentialStore::default());
    /// ```
    pub fn credentials(mut self, store: impl CredentialStore + 'static) -> Service {
        self.credentials = Some(AnyCredentialStore::new(store));
        self
    }

    /// How long requests in flight may take to finish at shutdown; ten seconds by default.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").drain(std::time::Duration::from_secs(60));
    /// ```
    pub fn drain(mut self, limit: Duration) -> Service {
        self.drain = limit;
        self
    }

    /// Runs the service until SIGTERM or Ctrl-C. It then removes its instance, so that no more requests are routed to it, and
    /// finishes the requests in flight. A second signal aborts them. Errors are logged.
    ///
    /// ```no_run
    /// # use openorch_sdk::service::{Service, axum::routing::get};
    /// # async fn example() -> std::process::ExitCode {
    /// Service::new("skeleton-svc").route("/skeleton-svc/hello", get(async || "hello")).run().await
    /// # }
    /// ```
    pub async fn run(self) -> ExitCode {
        logging::init();
        // Registered first, so that no signal is lost during startup.
        let mut signals = lifecycle::Signals::listen();
        let (stop, stopped) = oneshot::channel::<()>();
        let second_signal = async {
            signals.next().await;
            drop(stop);
            signals.next().await;
        };
        tokio::select! {
            ended = self.run_until(async { drop(stopped.await) }) => match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!("the service cannot run: {error}");
                    ExitCode::FAILURE
                }
            },
            () = second_signal => {
                tracing::warn!("second signal: requests in flight are aborted");
                ExitCode::FAILURE
            }
        }
    }

    /// Runs the service until `stop` completes: for tests, and for programs with their own signal handling and logging.
    ///
    /// Fails if it cannot listen, cannot sign in within one minute, may not register its instance, or is misconfigured.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, service::Service};
    /// # async fn example() -> Result<(), Error> {
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let service = Service::new("skeleton-svc").run_until(async { drop(stopped.await) });
    /// # drop(stop); service.await
    /// # }
    /// ```
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        if let Some(fault) = self.config_error {
            return Err(Error::Service(fault));
        }
        let client = match &self.daemon {
            Some(url) => ClientFactory::new(url)?.client(),
            None => SdkSettings::from_env().client()?.without_token(),
        };
        let store = match self.credentials {
            Some(store) => store,
            None => AnyCredentialStore::new(FileCredentialStore::in_home(&self.slug)?),
        };
        let self_url = self.advertise_url.or_else(|| env::var("SELF_URL").ok().filter(|url| !url.trim().is_empty()));
        let mut stop = pin!(stop);
        // Before the first call to the daemon, so that an address in use is reported immediately.
        let (listener, url) = tokio::select! {
            bound = bind(self_url.as_deref(), self.listen.as_deref()) => bound?,
            () = &mut stop => return Ok(()),
        };
        let start = lifecycle::Lifecycle {
            client,
            slug: self.slug,
            name: self.name,
            store,
            url,
            permissions: self.permissions,
            health_path: self.health_path.clone(),
            drain: self.drain,
        };
        let router = with_fallbacks(self.router, self.has_fallback);
        let health = (self.health_path == DEFAULT_HEALTH_PATH).then_some(DEFAULT_HEALTH_PATH);
        start.serve_until(stop, listener, move |platform| with_tracing(router, platform, health)).await
    }
}

/// Why axum would panic on this path; `None` if it is valid.
fn invalid_path_reason(path: &str) -> Option<String> {
    for segment in path.split('/') {
        if let Some(name) = segment.strip_prefix(':') {
            return Some(format!("write the parameter as `{{{name}}}`"));
        }
        if let Some(name) = segment.strip_prefix('*') {
            return Some(format!("write the wildcard as `{{*{name}}}`"));
        }
        let plain = segment.replace("{{", "").replace("}}", "");
        if !plain.contains(['{', '}']) {
            continue;
        }
        let name = plain.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let is_name = |name: &str| !name.is_empty() && !name.contains(['{', '}', '*']);
        if !name.is_some_and(|name| is_name(name.strip_prefix('*').unwrap_or(name))) {
            return Some(format!("`{segment}` is neither literal nor a single `{{parameter}}`"));
        }
        if name.is_some_and(|name| name.starts_with('*')) && !path.ends_with(segment) {
            return Some(format!("the wildcard `{segment}` must be last"));
        }
    }
    None
}

/// The path without parameter names; two paths with the same shape conflict.
fn path_shape(path: &str) -> String {
    let without_name = |segment: &str| match segment.strip_prefix('{') {
        Some(name) if name.starts_with('*') => "{*}".to_owned(),
        Some(name) if !name.starts_with('{') => "{}".to_owned(),
        _ => segment.to_owned(),
    };
    path.split('/').map(without_name).collect::<Vec<_>>().join("/")
}

/// Adds fallbacks that return errors in the platform's format.
fn with_fallbacks(router: Router, has_fallback: bool) -> Router {
    let router = router.method_not_allowed_fallback(request_layer::method_not_allowed);
    if has_fallback { router } else { router.fallback(request_layer::not_found) }
}

/// Adds tracing and logging to every request except health checks.
fn with_tracing(router: Router, platform: Platform, health: Option<&str>) -> Router {
    let observe = move |request: Request, next: Next| request_layer::trace_request(platform.clone(), request, next);
    let router = router.layer(middleware::from_fn(observe));
    match health {
        Some(path) => Router::new().route(path, get(request_layer::health)).fallback_service(router),
        None => router,
    }
}

/// Binds the listener; returns it with the URL at which the daemon reaches the service.
async fn bind(self_url: Option<&str>, listen: Option<&str>) -> Result<(TcpListener, String), Error> {
    let address = match (listen, self_url) {
        (Some(listen), _) => listen.to_owned(),
        (None, Some(url)) => listen_address(url)?,
        (None, None) => "127.0.0.1:0".to_owned(),
    };
    let failed = |error| {
        Error::Service(format!(
            "cannot listen on {address}: {error}; set SELF_URL to another address, or use `listen` if the listen address \
             differs from it"
        ))
    };
    let listener = TcpListener::bind(&address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    match self_url {
        Some(url) => Ok((listener, url.trim().to_owned())),
        None if local.ip().is_unspecified() => Err(Error::Service(format!(
            "SELF_URL is not set, and the daemon cannot reach this service at {local}; set it, for example to \
             http://10.0.0.7:{}",
            local.port()
        ))),
        None => Ok((listener, format!("http://{local}"))),
    }
}

/// Host and port of a URL.
fn listen_address(url: &str) -> Result<String, Error> {
    let invalid = || {
        Error::Service(format!(
            "SELF_URL is `{}`, which is not a valid URL; use a URL like http://127.0.0.1:9311",
            url.escape_debug()
        ))
    };
    let parsed = Url::parse(url.trim()).map_err(|_| invalid())?;
    match (parsed.host_str(), parsed.port_or_known_default()) {
        (Some(host), Some(port)) if matches!(parsed.scheme(), "http" | "https") => Ok(format!("{host}:{port}")),
        _ => Err(invalid()),
    }
}

/// The default display name: `Skeleton Svc` for `skeleton-svc`.
fn display_name_of(slug: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    };
    slug.split('-').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_service_listens() {
        for (url, want) in [
            ("http://127.0.0.1:9311", Some("127.0.0.1:9311")),
            (" http://[::1]:9311/base ", Some("[::1]:9311")),
            ("http://skeleton", Some("skeleton:80")),
            ("https://skeleton", Some("skeleton:443")),
            ("127.0.0.1:9311", None),
            ("ftp://skeleton:21", None),
            ("unix:///run/x", None),
            ("", None),
        ] {
            assert_eq!(listen_address(url).ok().as_deref(), want, "{url}");
        }
    }

    #[test]
    fn a_slug_as_people_write_it() {
        assert_eq!(
            [display_name_of("skeleton-svc"), display_name_of("a"), display_name_of("")],
            ["Skeleton Svc", "A", ""]
        );
    }
}
