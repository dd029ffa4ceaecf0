//! A service from its first call to its last: signs in, serves, registers, waits to be told to stop, and leaves in the
//! order that loses no request.

use std::{future::Future, io, pin::pin, time::Duration};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use crate::{
    Client, CredentialStore, Error, InstanceRegistration, RegisteredInstance,
    account::{PATIENCE, sign_in_service},
    retry::patiently,
};

use super::Platform;

/// Often enough that an instance that is gone without a word is forgotten within a minute.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// A daemon that is away must not keep a service from stopping.
const GOOD_BYE: Duration = Duration::from_secs(3);

/// What a service is started with.
pub(super) struct Start<S> {
    pub client: Client,
    pub slug: String,
    pub name: String,
    pub store: S,
    /// Where the daemon reaches it.
    pub url: String,
    pub health_path: String,
    pub drain: Duration,
}

/// The task that accepts connections.
struct Server {
    task: JoinHandle<io::Result<()>>,
    /// Dropped to have it finish what is under way and end.
    quit: oneshot::Sender<()>,
}

impl<S: CredentialStore + 'static> Start<S> {
    pub(super) async fn serve_until(
        self,
        stop: impl Future<Output = ()>,
        listener: TcpListener,
        router: impl FnOnce(Platform) -> Router,
    ) -> Result<(), Error> {
        let mut stop = pin!(stop);
        let (client, slug) = tokio::select! {
            signed_in = sign_in_service(PATIENCE, &self.client, &self.slug, &self.name, self.store) => signed_in?,
            () = &mut stop => return Ok(()),
        };
        // Before the instance is registered, so that the first probe finds it well.
        let mut server = Server::start(listener, router(Platform::new(&slug, client.clone())));

        let registration = InstanceRegistration::new(&self.url).health_path(&self.health_path).heartbeat(HEARTBEAT);
        let what = format!("registering {}", self.url);
        let mut registering = pin!(patiently(PATIENCE, &what, || registration.clone().register(&client)));
        let instance = tokio::select! {
            registered = &mut registering => registered?,
            () = &mut stop => {
                // The daemon may know the instance already: only its answer says which one is to be removed.
                if let Ok(Ok(instance)) = timeout(GOOD_BYE, registering).await {
                    say_good_bye(instance).await;
                }
                server.finish(self.drain).await;
                return Ok(());
            }
        };
        tracing::info!("`{slug}` serves at {}", self.url);
        let failed = tokio::select! {
            failed = server.failed() => Some(failed),
            () = &mut stop => None,
        };
        say_good_bye(instance).await;
        match failed {
            Some(error) => Err(error),
            None => {
                server.finish(self.drain).await;
                Ok(())
            }
        }
    }
}

impl Server {
    fn start(listener: TcpListener, router: Router) -> Server {
        let (quit, told) = oneshot::channel::<()>();
        let listener = listener.tap_io(|stream| {
            // Small answers must not wait for more; where that cannot be set they do.
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, router).with_graceful_shutdown(async { drop(told.await) });
        Server { task: tokio::spawn(serving.into_future()), quit }
    }

    /// Why it ended though nobody told it to.
    async fn failed(&mut self) -> Error {
        Error::Service(match (&mut self.task).await {
            Ok(Ok(())) => "it stopped listening".into(),
            Ok(Err(error)) => format!("it stopped listening: {error}"),
            Err(error) => format!("its listener failed: {error}"),
        })
    }

    /// Accepts nothing more and finishes what is under way.
    async fn finish(mut self, limit: Duration) {
        drop(self.quit);
        if timeout(limit, &mut self.task).await.is_err() {
            tracing::warn!("requests were still under way after {limit:?}: they are cut");
            self.task.abort();
        }
    }
}

async fn say_good_bye(instance: RegisteredInstance) {
    match timeout(GOOD_BYE, instance.deregister()).await {
        Ok(Ok(())) => tracing::info!("the instance is removed; finishing what is under way"),
        Ok(Err(error)) => tracing::warn!("the instance could not be removed: {error}"),
        Err(_) => tracing::warn!("the instance could not be removed within {GOOD_BYE:?}"),
    }
}

/// Done when the program is told to stop: by SIGTERM or Ctrl-C.
pub(super) async fn signal() {
    let told = async {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                _ = terminate.recv() => Ok(()),
                interrupted = tokio::signal::ctrl_c() => interrupted,
            }
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await
    };
    if let Err(error) = told.await {
        tracing::warn!("signals cannot be heard: {error}");
        std::future::pending::<()>().await;
    }
}
