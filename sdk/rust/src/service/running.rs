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

/// A service that is known to the daemon and answers.
struct Running {
    instance: RegisteredInstance,
    server: JoinHandle<io::Result<()>>,
    /// Dropped to have the server finish.
    quit: oneshot::Sender<()>,
}

impl<S: CredentialStore + 'static> Start<S> {
    pub(super) async fn serve_until(
        self,
        stop: impl Future<Output = ()>,
        listener: TcpListener,
        router: impl FnOnce(Platform) -> Router,
    ) -> Result<(), Error> {
        let (mut stop, drain) = (pin!(stop), self.drain);
        let mut running = tokio::select! {
            started = self.start(listener, router) => started?,
            () = &mut stop => return Ok(()),
        };
        let ended = tokio::select! {
            ended = &mut running.server => Some(ended),
            () = &mut stop => None,
        };
        say_good_bye(running.instance).await;
        match ended {
            // An accept loop that ends by itself has failed.
            Some(ended) => Err(Error::Service(match ended {
                Ok(Ok(())) => "it stopped listening".into(),
                Ok(Err(error)) => format!("it stopped listening: {error}"),
                Err(error) => format!("its listener failed: {error}"),
            })),
            None => {
                drop(running.quit);
                if timeout(drain, &mut running.server).await.is_err() {
                    tracing::warn!("requests were still under way after {drain:?}: they are cut");
                    running.server.abort();
                }
                Ok(())
            }
        }
    }

    async fn start(self, listener: TcpListener, router: impl FnOnce(Platform) -> Router) -> Result<Running, Error> {
        let (client, slug) = sign_in_service(PATIENCE, &self.client, &self.slug, &self.name, self.store).await?;
        let router = router(Platform::new(&slug, client.clone()));
        // Before the instance is registered, so that the first probe finds it well.
        let (quit, told) = oneshot::channel::<()>();
        let listener = listener.tap_io(|stream| {
            // Small answers must not wait for more; where that cannot be set they do.
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, router).with_graceful_shutdown(async { drop(told.await) });
        let server = tokio::spawn(serving.into_future());
        let registration = InstanceRegistration::new(&self.url).health_path(&self.health_path).heartbeat(HEARTBEAT);
        let what = format!("registering {}", self.url);
        let instance = patiently(PATIENCE, &what, || registration.clone().register(&client)).await?;
        tracing::info!("`{slug}` serves at {}", self.url);
        Ok(Running { instance, server, quit })
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
