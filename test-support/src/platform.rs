//! A platform for unit tests of services: an existing store, a clock that tests move, and no network.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use openorch_chassis::{
    Audit, BoxFuture, LocalNode, Platform, Result,
    audit::ENTRIES,
    clock::ManualClock,
    encryption::Encryptor,
    expiry::{ExpiryGrace, ExpirySettings},
    ids::Ids,
    mail::Mailer,
    metrics::Registry,
    outbound::{Outbound, OutboundSettings},
    routes::{Backend, Routes},
    settings::RawSettings,
};
use openorch_store::{Collection, Store};

/// Records the messages instead of sending them.
#[derive(Default)]
pub struct RecordingMailer(pub Mutex<Vec<String>>);

impl Mailer for RecordingMailer {
    fn send<'a>(&'a self, _: &'a str, _: &'a str, _: &'a str, text: String) -> BoxFuture<'a, Result<()>> {
        self.0.lock().unwrap().push(text);
        Box::pin(async { Ok(()) })
    }
}

struct NoRoutes;

impl Routes for NoRoutes {
    fn publish(&self, _: &str, _: Vec<Backend>) {}
    fn forget(&self, _: &str) {}
    fn load(&self, _: Vec<(Box<str>, Vec<Backend>)>) {}
}

/// A clock that starts at a fixed time.
pub fn clock() -> Arc<ManualClock> {
    ManualClock::new("2026-11-24T12:00:00Z".parse().unwrap())
}

/// Opens the collections in the store and makes a platform with these settings, as pairs of variable and value.
pub async fn platform(
    store: Arc<dyn Store>,
    collections: &[&Collection],
    clock: Arc<ManualClock>,
    mailer: Arc<RecordingMailer>,
    settings: &[(&str, &str)],
) -> Platform {
    let opened: Vec<Collection> = collections.iter().map(|collection| **collection).collect();
    store.open_collections(&opened).await.unwrap();
    let ids = Arc::new(Ids::new(clock.clone()));
    let mut given = RawSettings::default();
    settings.iter().for_each(|(variable, text)| given.add((*variable).to_owned(), (*text).to_owned()));
    Platform {
        audit: Arc::new(Audit::new(store.clone(), clock.clone(), ids.clone(), &ENTRIES)),
        expiry: Arc::new(ExpiryGrace::new(clock.clone(), None, Duration::ZERO, ExpirySettings::default())),
        store,
        clock,
        ids,
        encryptor: Encryptor::new("a key"),
        metrics: Arc::new(Registry::new("test")),
        mailer,
        outbound: Arc::new(Outbound::new(OutboundSettings::default())),
        routes: Arc::new(NoRoutes),
        node: LocalNode { url: "http://127.0.0.1:1".into(), data_dir: std::env::temp_dir() },
        max_unpaged_list: 50_000,
        raw_settings: Arc::new(given),
    }
}
