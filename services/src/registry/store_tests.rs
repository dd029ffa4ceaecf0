//! Cases that cannot be provoked from outside: commits of unknown outcome.

use std::{
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
};

use openorch_api::{
    Body, Path,
    error::platform::STORE_UNAVAILABLE,
    registry::{InstanceId, RegisterInstanceRequest},
};
use openorch_chassis::{
    Caller, Cx, ErrorCode, audit::CallAudit, clock::ManualClock, headers::DeclaredHeaders, service::RequestContext,
};
use openorch_store::{SqliteOptions, SqliteStore};

use super::{MODULE, Registry, instance, open};
use crate::{indeterminate_store::IndeterminateStore, test_platform};

struct Fixture {
    registry: Arc<Registry>,
    store: Arc<IndeterminateStore>,
    clock: Arc<ManualClock>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let store = IndeterminateStore::wrap(SqliteStore::open(directory.path(), SqliteOptions::default()).unwrap());
        let clock = test_platform::clock();
        let (letters, none) = (Arc::default(), &[]);
        let platform = test_platform::platform(store.clone(), MODULE.collections, clock.clone(), letters, none).await;
        let registry = open(&platform).await.unwrap();
        Fixture { registry, store, clock, _directory: directory }
    }

    fn cx(&self) -> Cx<Registry> {
        let caller = Caller {
            user_id: "usr_1".into(),
            slug: "a-svc".into(),
            session_id: "".into(),
            roles: Arc::new([]),
            default_app_roles: Arc::new([]),
            app: "unnamed".into(),
            audience: None,
        };
        let client_ip = Ipv4Addr::LOCALHOST.into();
        let request = RequestContext {
            caller: Some(caller),
            request_id: "".into(),
            client_ip,
            is_local: true,
            headers: DeclaredHeaders::default(),
            large_body: false,
            calls: None,
            audit: CallAudit::NONE,
            streams: Arc::default(),
        };
        Cx { state: self.registry.clone(), request: Arc::new(request) }
    }

    async fn register(&self) -> Option<&'static ErrorCode> {
        let request = RegisterInstanceRequest { url: "http://127.0.0.1:9".into(), ..Default::default() };
        instance::register(self.cx(), Body(request)).await.err().map(|error| error.code)
    }

    async fn remove(&self, id: &str) -> Option<&'static ErrorCode> {
        instance::remove(self.cx(), Path(InstanceId(id.into()))).await.err().map(|error| error.code)
    }

    fn instance_ids(&self) -> Vec<String> {
        self.registry.cache.all().iter().map(|entry| entry.row.id.clone()).collect()
    }

    async fn reconcile(&self) {
        instance::reconcile(self.registry.clone()).await;
    }
}

#[tokio::test]
async fn an_instance_whose_removal_has_an_unknown_outcome_is_no_longer_routed() {
    let bench = Fixture::new().await;
    for is_late in [false, true] {
        assert_eq!(bench.register().await, None);
        let id = bench.instance_ids().concat();
        let unsure = if is_late { &bench.store.delay_next_commit } else { &bench.store.drop_next_acknowledgement };
        unsure.store(true, Ordering::SeqCst);
        assert_eq!(bench.remove(&id).await, Some(&STORE_UNAVAILABLE));
        if is_late {
            bench.reconcile().await;
            assert_eq!(bench.instance_ids(), [&*id], "it is still there");
            bench.store.apply_delayed().await;
        }
        bench.reconcile().await;
        assert_eq!(bench.instance_ids(), [""; 0]);
        bench.clock.advance(120);
        bench.reconcile().await;
        assert!(bench.registry.indeterminate.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_instance_whose_registration_has_an_unknown_outcome_is_routed() {
    let bench = Fixture::new().await;
    bench.store.drop_next_acknowledgement.store(true, Ordering::SeqCst);
    assert_eq!(bench.register().await, Some(&STORE_UNAVAILABLE));
    bench.reconcile().await;
    assert_eq!(bench.instance_ids().len(), 1);
}

#[tokio::test]
async fn an_instance_is_removed_after_three_whole_silent_intervals_and_not_a_check_before() {
    for interval in [1_u32, 2, 4, 5] {
        let bench = Fixture::new().await;
        let url = "http://127.0.0.1:9".into();
        let request = RegisterInstanceRequest { url, heartbeat_seconds: Some(interval), ..Default::default() };
        let beat = async || instance::register(bench.cx(), Body(request.clone())).await.map(|_| ()).unwrap();
        let check = async || {
            instance::remove_silent(bench.registry.clone()).await;
            bench.instance_ids().len()
        };
        // Checks are a little more than a second apart, and heartbeats come shortly before them.
        beat().await;
        check().await;
        for _ in 0..20 {
            bench.clock.advance_ms(910);
            beat().await;
            bench.clock.advance_ms(100);
            assert_eq!(check().await, 1, "it sends a heartbeat every second");
        }
        let mut silent_ms = 100;
        while check().await == 1 && silent_ms < 100_000 {
            bench.clock.advance_ms(1010);
            silent_ms += 1010;
        }
        let promised = 3000 * interval;
        assert!((promised..=promised + 1010).contains(&silent_ms), "{interval} s: removed after {silent_ms} ms");
    }
}
