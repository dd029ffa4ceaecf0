//! The registration of a running copy of a service, so that the gateway sends it requests.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openorch_api::{
    Body, Created, Json, NoContent, Path, Query,
    registry::{
        InstanceId, InstanceStatus, LIST_INSTANCES, ListInstancesRequest, NO_SUCH_INSTANCE, REGISTER_INSTANCE,
        REMOVE_INSTANCE, RegisterInstanceRequest,
    },
};
use tokio::{task::AbortHandle, time::timeout};

use crate::{Client, Error, retry::backoff};

/// A beat that takes longer is not heard.
const BEAT_TIME_OUT: Duration = Duration::from_secs(10);
/// So long a beat that is under way is waited for before the instance is removed: arriving later, it would bring it back.
const LAST_BEAT: Duration = Duration::from_secs(1);
/// After a beat that was not heard, before the next.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// What is to be registered. Requests to `/<slug of the client's account>/…` then reach it.
///
/// ```no_run
/// use std::time::Duration;
/// use openorch_sdk::{Client, Error, InstanceRegistration};
///
/// async fn serve(client: &Client) -> Result<(), Error> {
///     let instance = InstanceRegistration::new("http://127.0.0.1:9311")
///         .health_path("/health")
///         .heartbeat(Duration::from_secs(20))
///         .register(client)
///         .await?;
///     // … serve until told to stop, then:
///     instance.deregister().await
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRegistration {
    request: RegisterInstanceRequest,
}

/// A registered instance, as made by [`InstanceRegistration::register`]. Dropping it stops the heartbeat and nothing else; [`deregister`](Self::deregister) says
/// good-bye.
///
/// ```
/// fn show(instance: &openorch_sdk::RegisteredInstance) {
///     println!("{} is {}", instance.id().unwrap_or_default(), instance.status().as_str());
/// }
/// ```
#[must_use = "the heartbeat ends when this is dropped"]
#[derive(Debug)]
pub struct RegisteredInstance {
    client: Client,
    url: String,
    seen: Arc<Mutex<Seen>>,
    heartbeat: Option<Heartbeat>,
}

#[derive(Debug)]
struct Heartbeat {
    task: AbortHandle,
    /// Held while a beat is under way.
    beating: Arc<tokio::sync::Mutex<()>>,
}

/// What the daemon said last.
#[derive(Clone, Debug, Default)]
struct Seen {
    id: Option<String>,
    status: InstanceStatus,
}

impl InstanceRegistration {
    /// The instance that the daemon reaches at `url`, for example `http://127.0.0.1:9311`.
    ///
    /// ```
    /// let registration = openorch_sdk::InstanceRegistration::new("http://127.0.0.1:9311");
    /// ```
    pub fn new(url: impl Into<String>) -> InstanceRegistration {
        let request = RegisterInstanceRequest { url: url.into(), ..RegisterInstanceRequest::default() };
        InstanceRegistration { request }
    }

    /// Probed by `GET` under this path instead of by opening a connection.
    ///
    /// ```
    /// # use openorch_sdk::InstanceRegistration;
    /// let registration = InstanceRegistration::new("http://127.0.0.1:9311").health_path("/health");
    /// ```
    pub fn health_path(mut self, path: impl Into<String>) -> InstanceRegistration {
        self.request.health_path = Some(path.into());
        self
    }

    /// Registers again at this interval, of whole seconds and one at least. The daemon forgets an instance that
    /// announced a heartbeat and stays silent for three intervals; one that announced none is never forgotten.
    ///
    /// ```
    /// # use openorch_sdk::InstanceRegistration;
    /// # use std::time::Duration;
    /// let registration = InstanceRegistration::new("http://127.0.0.1:9311").heartbeat(Duration::from_secs(20));
    /// ```
    pub fn heartbeat(mut self, every: Duration) -> InstanceRegistration {
        self.request.heartbeat_seconds = Some(u32::try_from(every.as_secs()).unwrap_or(u32::MAX).max(1));
        self
    }

    /// Registers the instance, before or after it listens: the daemon looks for it eagerly for some seconds.
    ///
    /// With a heartbeat this must be called on a Tokio runtime, which then runs it. Should the daemon lose the instance,
    /// the next beat registers it anew.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Client, Error, InstanceRegistration};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let instance = InstanceRegistration::new("http://127.0.0.1:9311").register(client).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn register(self, client: &Client) -> Result<RegisteredInstance, Error> {
        let request = self.request;
        let seen = Arc::new(Mutex::new(announce(client, &request).await?));
        let url = request.url.clone();
        let heartbeat = request.heartbeat_seconds.map(|seconds| {
            let every = Duration::from_secs(u64::from(seconds));
            let beating = Arc::default();
            let beat = beat(
                client.clone().or_time_out(BEAT_TIME_OUT),
                request,
                every,
                Arc::clone(&seen),
                Arc::clone(&beating),
            );
            Heartbeat { task: tokio::spawn(beat).abort_handle(), beating }
        });
        Ok(RegisteredInstance { client: client.clone(), url, seen, heartbeat })
    }
}

impl RegisteredInstance {
    /// The id that the registry gave, unless the server is too old to say.
    ///
    /// ```
    /// # fn example(instance: &openorch_sdk::RegisteredInstance) {
    /// assert!(instance.id().is_none_or(|id| id.starts_with("inst_")));
    /// # }
    /// ```
    pub fn id(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).id.clone()
    }

    /// How the daemon found the instance when it was registered, or at the last heartbeat.
    ///
    /// ```
    /// use openorch_sdk::{RegisteredInstance, api::registry::InstanceStatus};
    ///
    /// fn is_well(instance: &RegisteredInstance) -> bool {
    ///     instance.status() == InstanceStatus::Healthy
    /// }
    /// ```
    pub fn status(&self) -> InstanceStatus {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).status
    }

    /// Removes the instance, so that no further request is sent to it. For the end of a service, before it stops
    /// listening. One that is gone already is no failure.
    ///
    /// ```no_run
    /// # async fn example(instance: openorch_sdk::RegisteredInstance) -> Result<(), openorch_sdk::Error> {
    /// instance.deregister().await
    /// # }
    /// ```
    pub async fn deregister(self) -> Result<(), Error> {
        if let Some(heartbeat) = &self.heartbeat {
            let still = timeout(LAST_BEAT, heartbeat.beating.lock()).await;
            heartbeat.task.abort();
            drop(still);
        }
        let id = match self.id() {
            Some(id) => id,
            None => match find(&self.client, &self.url).await? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        match self.client.call(REMOVE_INSTANCE, Path(InstanceId(id))).await {
            Ok(NoContent) => Ok(()),
            Err(refusal) if refusal.is(&NO_SUCH_INSTANCE) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for RegisteredInstance {
    fn drop(&mut self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.task.abort();
        }
    }
}

async fn announce(client: &Client, request: &RegisterInstanceRequest) -> Result<Seen, Error> {
    let Created(answer) = client.call(REGISTER_INSTANCE, Body(request.clone())).await?;
    Ok(match answer.extra {
        Some(extra) => Seen { id: Some(extra.id), status: extra.status },
        None => Seen::default(),
    })
}

async fn beat(
    client: Client,
    request: RegisterInstanceRequest,
    every: Duration,
    seen: Arc<Mutex<Seen>>,
    beating: Arc<tokio::sync::Mutex<()>>,
) {
    let mut failures = 0;
    loop {
        // One that was not heard is repeated sooner: a daemon that comes back may have lost the instance.
        let pause = if failures == 0 { every } else { backoff(FIRST_PAUSE, failures - 1, every) };
        tokio::time::sleep(pause).await;
        let _held = beating.lock().await;
        match announce(&client, &request).await {
            Ok(fresh) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.id.is_some() && fresh.id.is_some() && seen.id != fresh.id {
                    tracing::warn!("the daemon had lost the instance {}; it is registered again", request.url);
                }
                *seen = fresh;
                failures = 0;
            }
            Err(error) => {
                tracing::warn!("a heartbeat was not heard: {error}");
                failures += 1;
            }
        }
    }
}

/// The id of the instance at `url`, from servers that do not say it when one is registered.
async fn find(client: &Client, url: &str) -> Result<Option<String>, Error> {
    let Json(list) = client.call(LIST_INSTANCES, Query(ListInstancesRequest::default())).await?;
    let same = |other: &str| other.trim_end_matches('/').eq_ignore_ascii_case(url.trim_end_matches('/'));
    Ok(list.instances.into_iter().find(|instance| same(&instance.url)).map(|instance| instance.id))
}
