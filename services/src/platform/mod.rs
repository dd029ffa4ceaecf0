//! The daemon's own paths: version, health, API documents, metrics, backup and batches of calls. Also removes expired
//! answers that were stored for idempotency keys.

mod batch;
mod docs;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use openorch_api::{
    Download, Html, Json, Operation, PrometheusText, Query, SharedDocument, SharedJson,
    platform::{self as api, MonitorRequestsRequest, RequestSeen},
};
use openorch_chassis::{
    BoxFuture, BuiltService, Cx, Error, RequestMonitor, Result, ServiceBuilder, events::Subscription,
    idempotency::IdempotencyStore, identity::AccountDeletionHook, metrics::Registry,
};
use openorch_store::{Store, Write};

/// Makes a backup of all data.
pub type BackupSource = Box<dyn Fn() -> BoxFuture<'static, Result<Download>> + Send + Sync>;

pub struct Platform {
    store: Arc<dyn Store>,
    metrics: Arc<Registry>,
    backup: BackupSource,
    repeats: Arc<IdempotencyStore>,
    limits: BatchLimits,
    /// By id, with whether the operation may be called in a batch. Built for the first batch, since it needs the
    /// schemas of all responses.
    batch_operations: OnceLock<HashMap<&'static str, (&'static Operation, bool)>>,
    monitor: Arc<RequestMonitor>,
    version: &'static str,
    /// Built on first use and kept: building takes milliseconds, and anyone may request it.
    document: OnceLock<SharedDocument>,
    page: OnceLock<SharedDocument>,
}

/// Limits of one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Total bytes of the answers of calls that read.
    pub max_batch_answer_bytes: usize,
    /// Timeout of the whole batch.
    pub batch_timeout: Duration,
}

impl Platform {
    pub fn new(
        store: Arc<dyn Store>,
        metrics: Arc<Registry>,
        backup: BackupSource,
        repeats: Arc<IdempotencyStore>,
        limits: BatchLimits,
        monitor: Arc<RequestMonitor>,
        version: &'static str,
    ) -> Arc<Platform> {
        Arc::new(Platform {
            store,
            metrics,
            backup,
            repeats,
            limits,
            batch_operations: OnceLock::new(),
            monitor,
            version,
            document: OnceLock::new(),
            page: OnceLock::new(),
        })
    }
}

impl AccountDeletionHook for Platform {
    fn cascade<'a>(&'a self, user_id: &'a str) -> BoxFuture<'a, Result<Vec<Write>>> {
        Box::pin(async { Ok(vec![self.repeats.delete_for_account(user_id)]) })
    }

    fn deleted(&self, _: &str) {
        self.repeats.invalidate_count();
    }
}

pub fn service(platform: Arc<Platform>) -> BuiltService {
    ServiceBuilder::new(api::SERVICE.slug, platform)
        .on(api::WELCOME, welcome)
        .on(api::HEALTH, health)
        .on(api::READY, ready)
        .on(api::OPENAPI, openapi)
        .on(api::DOCS, read_docs)
        .on(api::BACKUP, backup)
        .on(api::CALL_OPERATIONS, batch::call_operations)
        .on(api::METRICS, metrics)
        .on_account_deletion()
        .every(Duration::from_secs(3600), "remove old answers to calls with a key", remove_old_answers)
        .on_events(api::MONITOR_REQUESTS, monitor_requests)
        .build()
}

async fn welcome(cx: Cx<Platform>, (): ()) -> Result<Json<api::Welcome>> {
    let welcome = api::Welcome { name: "OpenOrch".into(), version: cx.version.into(), docs: "/docs".into() };
    Ok(Json(welcome))
}

async fn health(_: Cx<Platform>, (): ()) -> Result<Json<api::Health>> {
    Ok(Json(api::Health { status: "ok".into() }))
}

async fn ready(cx: Cx<Platform>, (): ()) -> Result<Json<api::Health>> {
    cx.store.ready().await?;
    Ok(Json(api::Health { status: "ready".into() }))
}

async fn openapi(cx: Cx<Platform>, (): ()) -> Result<SharedJson> {
    let make = || SharedDocument::new(openorch_api::openapi::document(cx.version).to_string());
    Ok(SharedJson(cx.document.get_or_init(make).clone()))
}

async fn read_docs(cx: Cx<Platform>, (): ()) -> Result<Html> {
    Ok(Html(cx.page.get_or_init(|| SharedDocument::new(docs::page(cx.version))).clone()))
}

async fn backup(cx: Cx<Platform>, (): ()) -> Result<Download> {
    // A backup changes nothing, but it reads all data, so it is always audited.
    cx.request.audit.record_unchanged();
    (cx.backup)().await
}

async fn metrics(cx: Cx<Platform>, (): ()) -> Result<PrometheusText> {
    let registry = cx.metrics.clone();
    // A thousand services have megabytes of series, so they are formatted off the async workers.
    let text = tokio::task::spawn_blocking(move || registry.text()).await.map_err(Error::internal)?;
    Ok(PrometheusText(text.into()))
}

async fn remove_old_answers(platform: Arc<Platform>) {
    if let Err(error) = platform.repeats.remove_expired().await {
        tracing::warn!("cannot remove expired answers to calls with `Idempotency-Key`, retrying: {error:?}");
    }
}

async fn monitor_requests(
    cx: Cx<Platform>,
    Query(asked): Query<MonitorRequestsRequest>,
) -> Result<Subscription<RequestSeen>> {
    Ok(cx.monitor.subscribe(asked))
}
