//! The lifecycle of a service: sign-in, serving, registration, and a graceful shutdown that loses no request.

use std::{future::Future, io, pin::pin, time::Duration};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    serve::ListenerExt,
};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Platform,
    permission::{DeclaredPermission, declare},
    request_layer,
};
use crate::{
    Client, CredentialStore, Error, InstanceRegistration, RegisteredInstance,
    account::{STARTUP_TIMEOUT, sign_in_service},
    retry::retry_until,
};

/// Heartbeat interval. A crashed instance is removed after three intervals, which is one minute.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(20);
/// Timeout of calls to the daemon at shutdown, so that an unreachable daemon does not delay it.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(3);

/// The configuration of a service to be started.
pub(super) struct Lifecycle<S> {
    pub client: Client,
    pub slug: String,
    pub name: String,
    pub store: S,
    /// The URL at which the daemon reaches the service.
    pub url: String,
    /// The permissions to declare before the service receives requests.
    pub permissions: Vec<DeclaredPermission>,
    pub health_path: String,
    pub drain: Duration,
}

/// Rejects the credential of another service, with which this one would run under the wrong slug.
async fn check_credential_slug(store: &impl CredentialStore, slug: &str) -> Result<(), Error> {
    match store.load().await? {
        Some(other) if other.slug != slug => Err(Error::Service(format!(
            "{} contains the credential of `{}`, but this service is `{slug}`; use a separate credential store",
            store.location(),
            other.slug
        ))),
        _ => Ok(()),
    }
}

/// The task that accepts connections.
struct Server {
    task: JoinHandle<io::Result<()>>,
    /// Dropped to start a graceful shutdown.
    shutdown: oneshot::Sender<()>,
    /// Set to abort requests in flight, whose connection tasks cannot be aborted from outside.
    abort: watch::Sender<bool>,
}

/// How long aborted requests may take to send their error responses.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

impl<S: CredentialStore + 'static> Lifecycle<S> {
    pub(super) async fn serve_until(
        self,
        stop: impl Future<Output = ()>,
        listener: TcpListener,
        router: impl FnOnce(Platform) -> Router,
    ) -> Result<(), Error> {
        let mut stop = pin!(stop);
        tokio::select! {
            fits = check_credential_slug(&self.store, &self.slug) => fits?,
            () = &mut stop => return Ok(()),
        }
        let (client, slug) = tokio::select! {
            signed_in = sign_in_service(STARTUP_TIMEOUT, &self.client, &self.slug, &self.name, self.store) => signed_in?,
            () = &mut stop => return Ok(()),
        };
        let what = format!("declaring the permissions of `{slug}`");
        tokio::select! {
            declared = retry_until(STARTUP_TIMEOUT, &what, || declare(&client, &self.permissions)) => declared?,
            () = &mut stop => return Ok(()),
        }
        // Before the instance is registered, so that the first health check succeeds.
        let mut server = Server::start(listener, router(Platform::new(&slug, client.clone())));

        let registration =
            InstanceRegistration::new(&self.url).health_path(&self.health_path).heartbeat(HEARTBEAT_INTERVAL);
        let what = format!("registering {}", self.url);
        let mut registering = pin!(retry_until(STARTUP_TIMEOUT, &what, || registration.clone().register(&client)));
        let instance = tokio::select! {
            registered = &mut registering => registered?,
            () = &mut stop => {
                // The daemon may have registered the instance already; the id to remove is in its response.
                if let Ok(Ok(instance)) = timeout(DEREGISTER_TIMEOUT, registering).await {
                    deregister(instance).await;
                }
                server.shut_down(self.drain).await;
                return Ok(());
            }
        };
        tracing::info!("`{slug}` serves at {}", self.url);
        let failed = tokio::select! {
            failed = server.unexpected_end() => Some(failed),
            () = &mut stop => None,
        };
        deregister(instance).await;
        match failed {
            Some(error) => Err(error),
            None => {
                server.shut_down(self.drain).await;
                Ok(())
            }
        }
    }
}

impl Server {
    fn start(listener: TcpListener, router: Router) -> Server {
        let (quit, shutdown_requested) = oneshot::channel::<()>();
        let (cut, is_aborted) = watch::channel(false);
        let router = router.layer(middleware::from_fn(move |request: Request, next: Next| {
            request_layer::until_aborted(is_aborted.clone(), request, next)
        }));
        let listener = listener.tap_io(|stream| {
            // Without it, small responses are delayed; a failure to set it is harmless.
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, router).with_graceful_shutdown(async { drop(shutdown_requested.await) });
        Server { task: tokio::spawn(serving.into_future()), shutdown: quit, abort: cut }
    }

    /// Waits until the server ends unexpectedly; returns the cause.
    async fn unexpected_end(&mut self) -> Error {
        Error::Service(match (&mut self.task).await {
            Ok(Ok(())) => "the server stopped".into(),
            Ok(Err(error)) => format!("the server stopped: {error}"),
            Err(error) => format!("the server task failed: {error}"),
        })
    }

    /// Stops accepting connections and finishes the requests in flight; aborts them after `limit`.
    async fn shut_down(mut self, limit: Duration) {
        drop(self.shutdown);
        if timeout(limit, &mut self.task).await.is_err() {
            tracing::warn!("requests still in flight after {limit:?} are aborted");
            self.abort.send_replace(true);
            if timeout(ABORT_TIMEOUT, &mut self.task).await.is_err() {
                self.task.abort();
            }
        }
    }
}

async fn deregister(instance: RegisteredInstance) {
    match timeout(DEREGISTER_TIMEOUT, instance.deregister()).await {
        Ok(Ok(())) => tracing::info!("deregistered; draining requests in flight"),
        Ok(Err(error)) => tracing::warn!("cannot deregister the instance: {error}"),
        Err(_) => tracing::warn!("cannot deregister the instance within {DEREGISTER_TIMEOUT:?}"),
    }
}

/// Shutdown signals, SIGTERM and Ctrl-C. No signal is lost after this is created.
pub(super) struct Signals {
    #[cfg(unix)]
    signals: io::Result<[tokio::signal::unix::Signal; 2]>,
    #[cfg(windows)]
    signals: io::Result<tokio::signal::windows::CtrlC>,
}

impl Signals {
    pub(super) fn listen() -> Signals {
        #[cfg(unix)]
        let signals = {
            use tokio::signal::unix::{SignalKind, signal};
            signal(SignalKind::terminate()).and_then(|term| Ok([term, signal(SignalKind::interrupt())?]))
        };
        #[cfg(windows)]
        let signals = tokio::signal::windows::ctrl_c();
        if let Err(error) = &signals {
            tracing::warn!("cannot listen for signals: {error}");
        }
        Signals { signals }
    }

    /// Completes at the next signal.
    pub(super) async fn next(&mut self) {
        match &mut self.signals {
            #[cfg(unix)]
            Ok([terminate, interrupt]) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            #[cfg(windows)]
            Ok(interrupt) => drop(interrupt.recv().await),
            Err(_) => std::future::pending().await,
        }
    }
}
