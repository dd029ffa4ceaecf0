//! The service kit: everything a service does to live on the platform, around handlers of axum or any tower service. What
//! a handler can ask the platform is in `platform.rs`.

mod credentials;
mod guard;
mod logs;
mod permission;
mod platform;
mod refusal;
mod request;
mod running;
mod token;

use std::{
    collections::BTreeSet, env, future::Future, path::PathBuf, pin::pin, process::ExitCode, sync::Arc, time::Duration,
};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::IntoResponse,
    routing::{MethodRouter, get},
};
use tokio::{net::TcpListener, sync::oneshot};
use url::Url;

use crate::{ClientFactory, CredentialStore, Error, FileCredentialStore, SdkSettings};

use credentials::AnyCredentialStore;

pub use guard::Guard;
pub use platform::Platform;
pub use refusal::Refusal;
pub use token::{Caller, TokenCheck};

/// The web framework that routes are written with.
pub use axum;

/// Where the daemon's probes are answered.
const HEALTH_PATH: &str = "/health";
/// How long requests under way may still take once the service stops.
const DRAIN: Duration = Duration::from_secs(10);

/// A service: what it is called and what it answers. [`run`](Service::run) does the rest: the account, its credential,
/// the registration of the instance with a heartbeat, probes, the trace and the log, and an end in good order.
///
/// From the environment: `OPENORCH_URL` is the daemon; `SELF_URL` is where the daemon reaches this service, which
/// listens there too (without it, on any free port of this machine); `OPENORCH_LOG` is how much it logs, for example
/// `info,my_crate=debug`. The credential is kept in `~/.openorch/credentials`.
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
    self_url: Option<String>,
    listen: Option<String>,
    credentials: Option<AnyCredentialStore>,
    permissions: Vec<permission::Declared>,
    drain: Duration,
    /// What was wrong with what the program said; told when it is run.
    fault: Option<String>,
}

impl Service {
    /// A service whose account has this slug: requests to `/<slug>/…` of the daemon reach it.
    ///
    /// ```
    /// let service = openorch_sdk::service::Service::new("skeleton-svc");
    /// ```
    pub fn new(slug: &str) -> Service {
        Service {
            slug: slug.to_owned(),
            name: title(slug),
            router: Router::new(),
            paths: BTreeSet::new(),
            has_fallback: false,
            health_path: HEALTH_PATH.to_owned(),
            daemon: None,
            self_url: None,
            listen: None,
            credentials: None,
            permissions: Vec::new(),
            drain: DRAIN,
            fault: openorch_api::Slug::parse(slug).err().map(|error| error.to_string()),
        }
    }

    /// The name of the account, for people; else it is made of the slug.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("crm-svc").named("Customer Relations");
    /// ```
    pub fn named(mut self, name: &str) -> Service {
        self.name = name.to_owned();
        self
    }

    /// Answers requests to `path`, which must begin with the slug and may hold `{parameters}`. All methods of a path go
    /// into one call: `get(list).post(create)`. Handlers may take [`Platform`] and [`Caller`].
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
            self.fault.get_or_insert(format!(
                "no request reaches the path `{path}`: the gateway sends this service what begins with `/{}/`",
                self.slug
            ));
        } else if let Some(why) = odd_path(path) {
            self.fault.get_or_insert(format!("the path `{path}` cannot be routed: {why}"));
        } else if !self.paths.insert(shape(path)) {
            self.fault
                .get_or_insert(format!("the path `{path}` is given twice; put its methods together: get(…).post(…)"));
        } else {
            self.router = self.router.route(path, methods);
        }
        self
    }

    /// Declares a permission of this service, and which roles have it from the start: it is saved and given to them at each
    /// start, before the service can be called. `order:view` is short for `<slug>:order:view`. What an admin gives to other
    /// roles stays.
    ///
    /// ```
    /// use openorch_sdk::{api::role, service::{Service, axum::routing::get}};
    ///
    /// let service = Service::new("shop-svc")
    ///     .permission("order:view", "See all orders.", &[role::ADMIN, role::USER])
    ///     .guarded("/shop-svc/orders", "order:view", get(async || "all orders"));
    /// ```
    ///
    /// The service does not run ([`Error::Service`]) where the permission is not under its own slug, nor where the daemon
    /// refuses it ([`Error::Refused`], which names `savePermissions` or `assignPermissions`).
    pub fn permission(mut self, id: &str, description: &str, roles: &[&str]) -> Service {
        let id = permission::whole_id(&self.slug, id);
        if let Some(why) = permission::fault(&self.slug, &id) {
            self.fault.get_or_insert(why);
        }
        let roles = roles.iter().map(|role| role.to_string()).collect();
        self.permissions.push(permission::Declared { id, description: description.to_owned(), roles });
        self
    }

    /// [`route`](Self::route) for callers who have a permission, the service's own or another's: others get 401 or 403.
    /// Own ones may be written short, like in [`permission`](Self::permission).
    ///
    /// ```
    /// use openorch_sdk::service::{Service, axum::routing::get};
    ///
    /// let service = Service::new("skeleton-svc")
    ///     .guarded("/skeleton-svc/things", "thing:view", get(async || "all things"))
    ///     .guarded("/skeleton-svc/users", "user-svc:user:view", get(async || "all users"));
    /// ```
    pub fn guarded(self, path: &str, permission: &str, methods: MethodRouter) -> Service {
        let permission: Arc<str> = permission::whole_id(&self.slug, permission).into();
        let guard = move |platform: Platform, caller: Caller, request: Request, next: Next| {
            request::guard(Arc::clone(&permission), platform, caller, request, next)
        };
        self.route(path, methods.route_layer(middleware::from_fn(guard)))
    }

    /// Answers what no route does with any tower service, a whole [`axum::Router`] among them.
    ///
    /// ```
    /// use openorch_sdk::service::{Service, axum::{Router, routing::get}};
    ///
    /// let router = Router::new().route("/skeleton-svc/hello", get(async || "hello"));
    /// let service = Service::new("skeleton-svc").service(router);
    /// ```
    pub fn service<T>(mut self, service: T) -> Service
    where
        T: tower_service::Service<Request, Error = std::convert::Infallible> + Clone + Send + Sync + 'static,
        T::Response: IntoResponse,
        T::Future: Send + 'static,
    {
        self.router = self.router.fallback_service(service);
        self.has_fallback = true;
        self
    }

    /// The daemon probes this path, which the service answers itself: well with 2xx, else not to be sent requests. Without
    /// this it probes `/health`, which is answered here.
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

    /// The address of the daemon, instead of `OPENORCH_URL`.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").daemon("http://127.0.0.1:58231");
    /// ```
    pub fn daemon(mut self, url: &str) -> Service {
        self.daemon = Some(url.to_owned());
        self
    }

    /// Where the daemon reaches this service, instead of `SELF_URL`.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").reached_at("http://127.0.0.1:9311");
    /// ```
    pub fn reached_at(mut self, url: &str) -> Service {
        self.self_url = Some(url.to_owned());
        self
    }

    /// Listens here, where that is not where the daemon reaches it: in a container, for example.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").listen("0.0.0.0:9311").reached_at("http://skeleton:9311");
    /// ```
    pub fn listen(mut self, address: &str) -> Service {
        self.listen = Some(address.to_owned());
        self
    }

    /// Keeps the credential in this folder instead of `~/.openorch/credentials`.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").credential_folder("/var/lib/skeleton-svc");
    /// ```
    pub fn credential_folder(self, folder: impl Into<PathBuf>) -> Service {
        let store = FileCredentialStore::new(folder.into(), &self.slug);
        self.credentials(store)
    }

    /// Keeps the credential in this store instead of a file of the home folder: in the service's own datastore, say.
    ///
    /// ```
    /// # use openorch_sdk::{MemoryCredentialStore, service::Service};
    /// let service = Service::new("skeleton-svc").credentials(MemoryCredentialStore::default());
    /// ```
    pub fn credentials(mut self, store: impl CredentialStore + 'static) -> Service {
        self.credentials = Some(AnyCredentialStore::new(store));
        self
    }

    /// How long requests under way may still take once the service is told to stop; ten seconds unless said here.
    ///
    /// ```
    /// # use openorch_sdk::service::Service;
    /// let service = Service::new("skeleton-svc").drain(std::time::Duration::from_secs(60));
    /// ```
    pub fn drain(mut self, limit: Duration) -> Service {
        self.drain = limit;
        self
    }

    /// Runs the service until SIGTERM or Ctrl-C: then its instance is removed first, so that nothing more is sent to it,
    /// and what is under way is finished. A second signal ends it at once. What keeps it from running is told in the log.
    ///
    /// ```no_run
    /// # use openorch_sdk::service::{Service, axum::routing::get};
    /// # async fn example() -> std::process::ExitCode {
    /// Service::new("skeleton-svc").route("/skeleton-svc/hello", get(async || "hello")).run().await
    /// # }
    /// ```
    pub async fn run(self) -> ExitCode {
        logs::start();
        // From the first moment on, so that none is lost while the service starts.
        let mut signals = running::Signals::listen();
        let (stop, stopped) = oneshot::channel::<()>();
        let twice = async {
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
            () = twice => {
                tracing::warn!("told twice to stop: what was under way is cut");
                ExitCode::FAILURE
            }
        }
    }

    /// Runs the service until `stop` is done: for tests, and for programs that have signals and a log of their own.
    ///
    /// Fails where it cannot listen, cannot sign in within a minute, may not register, or was put together wrongly.
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
        if let Some(fault) = self.fault {
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
        let self_url = self.self_url.or_else(|| env::var("SELF_URL").ok().filter(|url| !url.trim().is_empty()));
        let mut stop = pin!(stop);
        // Before anything is asked of the daemon: a port that is taken is told at once.
        let (listener, url) = tokio::select! {
            bound = bind(self_url.as_deref(), self.listen.as_deref()) => bound?,
            () = &mut stop => return Ok(()),
        };
        let start = running::Start {
            client,
            slug: self.slug,
            name: self.name,
            store,
            url,
            permissions: self.permissions,
            health_path: self.health_path.clone(),
            drain: self.drain,
        };
        let router = finish(self.router, self.has_fallback);
        let health = (self.health_path == HEALTH_PATH).then_some(HEALTH_PATH);
        start.serve_until(stop, listener, move |platform| observed(router, platform, health)).await
    }
}

/// Why axum would panic at a path.
fn odd_path(path: &str) -> Option<String> {
    for segment in path.split('/') {
        if let Some(name) = segment.strip_prefix(':') {
            return Some(format!("a parameter is written `{{{name}}}`"));
        }
        if let Some(name) = segment.strip_prefix('*') {
            return Some(format!("the rest of a path is written `{{*{name}}}`"));
        }
        let plain = segment.replace("{{", "").replace("}}", "");
        if !plain.contains(['{', '}']) {
            continue;
        }
        let name = plain.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let is_name = |name: &str| !name.is_empty() && !name.contains(['{', '}', '*']);
        if !name.is_some_and(|name| is_name(name.strip_prefix('*').unwrap_or(name))) {
            return Some(format!("`{segment}` is neither plain nor one `{{parameter}}`"));
        }
        if name.is_some_and(|name| name.starts_with('*')) && !path.ends_with(segment) {
            return Some(format!("nothing can follow `{segment}`"));
        }
    }
    None
}

/// A path without the names of its parameters: two of one shape cannot be told apart.
fn shape(path: &str) -> String {
    let nameless = |segment: &str| match segment.strip_prefix('{') {
        Some(name) if name.starts_with('*') => "{*}".to_owned(),
        Some(name) if !name.starts_with('{') => "{}".to_owned(),
        _ => segment.to_owned(),
    };
    path.split('/').map(nameless).collect::<Vec<_>>().join("/")
}

/// With answers in the platform's form where there is no handler.
fn finish(router: Router, has_fallback: bool) -> Router {
    let router = router.method_not_allowed_fallback(request::wrong_method);
    if has_fallback { router } else { router.fallback(request::not_found) }
}

/// With what happens around every request but the probes.
fn observed(router: Router, platform: Platform, health: Option<&str>) -> Router {
    let observe = move |request: Request, next: Next| request::observe(platform.clone(), request, next);
    let router = router.layer(middleware::from_fn(observe));
    match health {
        Some(path) => Router::new().route(path, get(request::health)).fallback_service(router),
        None => router,
    }
}

/// Listens; answers the listener and where the daemon reaches it.
async fn bind(self_url: Option<&str>, listen: Option<&str>) -> Result<(TcpListener, String), Error> {
    let address = match (listen, self_url) {
        (Some(listen), _) => listen.to_owned(),
        (None, Some(url)) => address_of(url)?,
        (None, None) => "127.0.0.1:0".to_owned(),
    };
    let failed = |error| {
        Error::Service(format!(
            "cannot listen on {address}: {error}; set SELF_URL to another address, or say with `listen` where to listen \
             if it is reached elsewhere"
        ))
    };
    let listener = TcpListener::bind(&address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    match self_url {
        Some(url) => Ok((listener, url.trim().to_owned())),
        None if local.ip().is_unspecified() => Err(Error::Service(format!(
            "SELF_URL is not set, and {local} does not say where the daemon reaches this service; set it, for example to \
             http://10.0.0.7:{}",
            local.port()
        ))),
        None => Ok((listener, format!("http://{local}"))),
    }
}

/// Host and port of a URL.
fn address_of(url: &str) -> Result<String, Error> {
    let invalid = || {
        Error::Service(format!(
            "SELF_URL is `{}`, which is no URL of a service; write it like http://127.0.0.1:9311",
            url.escape_debug()
        ))
    };
    let parsed = Url::parse(url.trim()).map_err(|_| invalid())?;
    match (parsed.host_str(), parsed.port_or_known_default()) {
        (Some(host), Some(port)) if matches!(parsed.scheme(), "http" | "https") => Ok(format!("{host}:{port}")),
        _ => Err(invalid()),
    }
}

/// `skeleton-svc` as people write it: `Skeleton Svc`.
fn title(slug: &str) -> String {
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
            assert_eq!(address_of(url).ok().as_deref(), want, "{url}");
        }
    }

    #[test]
    fn a_slug_as_people_write_it() {
        assert_eq!([title("skeleton-svc"), title("a"), title("")], ["Skeleton Svc", "A", ""]);
    }
}
