//! A service from its first call to its last: signs in, serves, registers, waits to be told to stop, and leaves in the
//! order that loses no request.

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

use crate::{
    Client, CredentialStore, Error, InstanceRegistration, RegisteredInstance,
    account::{PATIENCE, sign_in_service},
    retry::patiently,
};

use super::{
    Platform,
    permission::{Declared, declare},
    request,
};

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
    /// What it declares before it can be called.
    pub permissions: Vec<Declared>,
    pub health_path: String,
    pub drain: Duration,
}

/// Refuses the credential of another service: this one would answer under another name than it was given.
async fn fits(store: &impl CredentialStore, slug: &str) -> Result<(), Error> {
    match store.load().await? {
        Some(other) if other.slug != slug => Err(Error::Service(format!(
            "{} holds the credential of `{}`, and this service is `{slug}`; give it a place of its own",
            store.place(),
            other.slug
        ))),
        _ => Ok(()),
    }
}

/// The task that accepts connections.
struct Server {
    task: JoinHandle<io::Result<()>>,
    /// Dropped to have it finish what is under way and end.
    quit: oneshot::Sender<()>,
    /// Said to have what is under way end at once: connections are tasks that nobody but themselves can end.
    cut: watch::Sender<bool>,
}

/// So long answers that are cut may take to be told to whom they were due.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl<S: CredentialStore + 'static> Start<S> {
    pub(super) async fn serve_until(
        self,
        stop: impl Future<Output = ()>,
        listener: TcpListener,
        router: impl FnOnce(Platform) -> Router,
    ) -> Result<(), Error> {
        let mut stop = pin!(stop);
        tokio::select! {
            fits = fits(&self.store, &self.slug) => fits?,
            () = &mut stop => return Ok(()),
        }
        let (client, slug) = tokio::select! {
            signed_in = sign_in_service(PATIENCE, &self.client, &self.slug, &self.name, self.store) => signed_in?,
            () = &mut stop => return Ok(()),
        };
        let what = format!("declaring the permissions of `{slug}`");
        tokio::select! {
            declared = patiently(PATIENCE, &what, || declare(&client, &self.permissions)) => declared?,
            () = &mut stop => return Ok(()),
        }
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
        let (cut, is_cut) = watch::channel(false);
        let router = router.layer(middleware::from_fn(move |request: Request, next: Next| {
            request::until_cut(is_cut.clone(), request, next)
        }));
        let listener = listener.tap_io(|stream| {
            // Small answers must not wait for more; where that cannot be set they do.
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, router).with_graceful_shutdown(async { drop(told.await) });
        Server { task: tokio::spawn(serving.into_future()), quit, cut }
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
            self.cut.send_replace(true);
            if timeout(LAST_WORDS, &mut self.task).await.is_err() {
                self.task.abort();
            }
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

/// What tells the program to stop: SIGTERM and Ctrl-C, none of them lost from the moment this is made.
pub(super) struct Signals {
    #[cfg(unix)]
    told: io::Result<[tokio::signal::unix::Signal; 2]>,
    #[cfg(windows)]
    told: io::Result<tokio::signal::windows::CtrlC>,
}

impl Signals {
    pub(super) fn listen() -> Signals {
        #[cfg(unix)]
        let told = {
            use tokio::signal::unix::{SignalKind, signal};
            signal(SignalKind::terminate()).and_then(|term| Ok([term, signal(SignalKind::interrupt())?]))
        };
        #[cfg(windows)]
        let told = tokio::signal::windows::ctrl_c();
        if let Err(error) = &told {
            tracing::warn!("signals cannot be heard: {error}");
        }
        Signals { told }
    }

    /// Done when the next one comes.
    pub(super) async fn next(&mut self) {
        match &mut self.told {
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
