//! Registration of a running instance of a service, so that the gateway routes requests to it.

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

/// Timeout of one heartbeat.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long deregistration waits for a heartbeat in progress, which would otherwise register the instance again.
const IN_FLIGHT_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);
/// Initial delay after a failed heartbeat.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);

/// An instance to be registered. Requests to `/<slug of the client's account>/…` are then routed to it.
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
///     // … serve until shutdown, then:
///     instance.deregister().await
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRegistration {
    request: RegisterInstanceRequest,
}

/// A registered instance, created by [`InstanceRegistration::register`]. Dropping it only stops the heartbeat;
/// [`deregister`](Self::deregister) removes the instance.
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
    seen: Arc<Mutex<ReportedInstance>>,
    heartbeat: Option<Heartbeat>,
}

#[derive(Debug)]
struct Heartbeat {
    task: AbortHandle,
    /// Locked while a heartbeat is in progress.
    beating: Arc<tokio::sync::Mutex<()>>,
}

/// The instance as last reported by the daemon.
#[derive(Clone, Debug, Default)]
struct ReportedInstance {
    id: Option<String>,
    status: InstanceStatus,
}

impl InstanceRegistration {
    /// An instance at `url`, at which the daemon must reach it, for example `http://127.0.0.1:9311`.
    ///
    /// ```
    /// let registration = openorch_sdk::InstanceRegistration::new("http://127.0.0.1:9311");
    /// ```
    pub fn new(url: impl Into<String>) -> InstanceRegistration {
        let request = RegisterInstanceRequest { url: url.into(), ..RegisterInstanceRequest::default() };
        InstanceRegistration { request }
    }

    /// Probe the instance with `GET` on this path instead of a TCP connection.
    ///
    /// ```
    /// # use openorch_sdk::InstanceRegistration;
    /// let registration = InstanceRegistration::new("http://127.0.0.1:9311").health_path("/health");
    /// ```
    pub fn health_path(mut self, path: impl Into<String>) -> InstanceRegistration {
        self.request.health_path = Some(path.into());
        self
    }

    /// Sends a heartbeat at this interval, in whole seconds and at least one. The daemon removes an instance after three
    /// intervals without a heartbeat; an instance registered without a heartbeat is never removed.
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

    /// Registers the instance, before or after it listens: the daemon probes a new instance frequently for some seconds.
    ///
    /// With a heartbeat, this must be called on a Tokio runtime, which runs the heartbeat task. If the daemon loses the
    /// instance, the next heartbeat registers it again.
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
        let seen = Arc::new(Mutex::new(send_registration(client, &request).await?));
        let url = request.url.clone();
        let heartbeat = request.heartbeat_seconds.map(|seconds| {
            let every = Duration::from_secs(u64::from(seconds));
            let beating = Arc::default();
            let beat = heartbeat_loop(
                client.clone().with_default_timeout(HEARTBEAT_TIMEOUT),
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
    /// The id of the instance; `None` if the server is too old to report it.
    ///
    /// ```
    /// # fn example(instance: &openorch_sdk::RegisteredInstance) {
    /// assert!(instance.id().is_none_or(|id| id.starts_with("inst_")));
    /// # }
    /// ```
    pub fn id(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).id.clone()
    }

    /// The status of the instance at registration or at the last heartbeat.
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

    /// Removes the instance, so that no more requests are routed to it. Call it on shutdown, before the service stops
    /// listening. Succeeds if the instance is already removed.
    ///
    /// ```no_run
    /// # async fn example(instance: openorch_sdk::RegisteredInstance) -> Result<(), openorch_sdk::Error> {
    /// instance.deregister().await
    /// # }
    /// ```
    pub async fn deregister(self) -> Result<(), Error> {
        if let Some(heartbeat) = &self.heartbeat {
            let in_flight = timeout(IN_FLIGHT_HEARTBEAT_TIMEOUT, heartbeat.beating.lock()).await;
            heartbeat.task.abort();
            drop(in_flight);
        }
        let id = match self.id() {
            Some(id) => id,
            None => match find_instance_id(&self.client, &self.url).await? {
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

async fn send_registration(client: &Client, request: &RegisterInstanceRequest) -> Result<ReportedInstance, Error> {
    let Created(answer) = client.call(REGISTER_INSTANCE, Body(request.clone())).await?;
    Ok(match answer.extra {
        Some(extra) => ReportedInstance { id: Some(extra.id), status: extra.status },
        None => ReportedInstance::default(),
    })
}

async fn heartbeat_loop(
    client: Client,
    request: RegisterInstanceRequest,
    every: Duration,
    seen: Arc<Mutex<ReportedInstance>>,
    beating: Arc<tokio::sync::Mutex<()>>,
) {
    let mut failures = 0;
    loop {
        // A failed heartbeat is repeated sooner: a restarted daemon may have lost the instance.
        let pause = if failures == 0 { every } else { backoff(INITIAL_BACKOFF, failures - 1, every) };
        tokio::time::sleep(pause).await;
        let _held = beating.lock().await;
        match send_registration(&client, &request).await {
            Ok(fresh) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.id.is_some() && fresh.id.is_some() && seen.id != fresh.id {
                    tracing::warn!("the daemon had lost the instance {}; registered it again", request.url);
                }
                *seen = fresh;
                failures = 0;
            }
            Err(error) => {
                tracing::warn!("heartbeat failed: {error}");
                failures += 1;
            }
        }
    }
}

/// Finds the id of the instance at `url`, for servers that do not return it on registration.
async fn find_instance_id(client: &Client, url: &str) -> Result<Option<String>, Error> {
    let Json(list) = client.call(LIST_INSTANCES, Query(ListInstancesRequest::default())).await?;
    let same = |other: &str| other.trim_end_matches('/').eq_ignore_ascii_case(url.trim_end_matches('/'));
    Ok(list.instances.into_iter().find(|instance| same(&instance.url)).map(|instance| instance.id))
}
