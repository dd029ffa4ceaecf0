//! The daemon's own paths: what it is, whether it is well, its documents and metrics.

mod docs;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use openorch_api::{
    Download, Html, Json, Query, Samples, SharedJson,
    platform::{self as api, MonitorRequestsRequest, RequestSeen},
};
use openorch_chassis::{
    BoxFuture, Cx, Error, Mounted, RequestMonitor, Result, Service, audit, events::Subscription, metrics::Registry,
};
use openorch_store::Store;

/// Makes a copy of all data.
pub type BackupSource = Box<dyn Fn() -> BoxFuture<'static, Result<Download>> + Send + Sync>;

pub struct Platform {
    store: Arc<dyn Store>,
    metrics: Arc<Registry>,
    backup: BackupSource,
    monitor: Arc<RequestMonitor>,
    version: &'static str,
    /// Made when first asked for, and kept: making it takes milliseconds, and anyone may ask.
    document: OnceLock<Bytes>,
    page: OnceLock<Bytes>,
}

impl Platform {
    pub fn new(
        store: Arc<dyn Store>,
        metrics: Arc<Registry>,
        backup: BackupSource,
        monitor: Arc<RequestMonitor>,
        version: &'static str,
    ) -> Arc<Platform> {
        Arc::new(Platform {
            store,
            metrics,
            backup,
            monitor,
            version,
            document: OnceLock::new(),
            page: OnceLock::new(),
        })
    }
}

pub fn service(platform: Arc<Platform>) -> Mounted {
    Service::new(api::SERVICE.slug, platform)
        .on(api::WELCOME, welcome)
        .on(api::HEALTH, health)
        .on(api::READY, ready)
        .on(api::OPENAPI, openapi)
        .on(api::DOCS, read_docs)
        .on(api::BACKUP, backup)
        .on(api::METRICS, metrics)
        .on_events(api::MONITOR_REQUESTS, monitor_requests)
        .mount()
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
    let document = cx.document.get_or_init(|| openorch_api::openapi::document(cx.version).to_string().into());
    Ok(SharedJson(document.clone()))
}

async fn read_docs(cx: Cx<Platform>, (): ()) -> Result<Html> {
    Ok(Html(cx.page.get_or_init(|| docs::page(cx.version).into()).clone()))
}

async fn backup(cx: Cx<Platform>, (): ()) -> Result<Download> {
    // It changes nothing, and all data leave the daemon by it.
    audit::tell_anyway();
    (cx.backup)().await
}

async fn metrics(cx: Cx<Platform>, (): ()) -> Result<Samples> {
    let registry = cx.metrics.clone();
    // A thousand services have some megabytes of series: they are written beside the async workers.
    let text = tokio::task::spawn_blocking(move || registry.text()).await.map_err(Error::internal)?;
    Ok(Samples(text.into()))
}

async fn monitor_requests(
    cx: Cx<Platform>,
    Query(asked): Query<MonitorRequestsRequest>,
) -> Result<Subscription<RequestSeen>> {
    Ok(cx.monitor.follow(asked))
}
