//! Nested calls that no built-in operation makes: deep ones, slow ones, and calls of a public operation.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::HeaderValue;
use openorch_api::{Body as Sent, Json, Operation, error::access, op};
use openorch_store::{SqliteOptions, SqliteStore};
use serde_json::json;

use super::*;
use crate::{
    Audit, BoxFuture, Caller, Credential, Cx, ForwardedAuth, Identity, ServiceBuilder,
    audit::ENTRIES,
    clock::ManualClock,
    encryption::Encryptor,
    events::EventStreams,
    expiry::{ExpiryGrace, ExpirySettings},
    idempotency::{IdempotencyStore, Limits},
    ids::Ids,
    metrics::Registry,
    router::{ApiSettings, Router},
};

/// Accepts every token, as an account of that name without permissions.
struct AcceptAnyToken;

impl Identity for AcceptAnyToken {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller>> {
        let caller = Caller {
            user_id: token.into(),
            slug: token.into(),
            session_id: token.into(),
            roles: Arc::new([]),
            default_app_roles: Arc::new([]),
            app: "unnamed".into(),
            audience: None,
        };
        Box::pin(async { Ok(caller) })
    }
    fn allows(&self, _: &Caller, _: &str) -> bool {
        false
    }
    fn delegation_allows(&self, _: &str, _: &str) -> bool {
        false
    }
    fn delegate_cached(&self, _: &HeaderValue, _: &str) -> Option<Result<ForwardedAuth>> {
        Some(Ok(ForwardedAuth::Untouched))
    }
    fn delegate<'a>(&'a self, _: &'a HeaderValue, _: &'a str) -> BoxFuture<'a, Result<ForwardedAuth>> {
        Box::pin(async { Ok(ForwardedAuth::Untouched) })
    }
    fn names_our_key(&self, _: &[u8]) -> bool {
        false
    }
    fn ended_credentials<'a>(&'a self, _: &'a [Credential]) -> BoxFuture<'a, Vec<Credential>> {
        Box::pin(async { Vec::new() })
    }
}

const fn row(id: &'static str, path: &'static str, access: Access) -> Operation {
    Operation {
        id,
        path,
        access,
        input: <Sent<Value> as Input>::describe,
        output: <Json<Value> as Output>::describe,
        ..op::DEFAULT
    }
}

static DOWN: Operation = row("down", "/down", Access::SignedIn);
static SLOW: Operation = row("slow", "/slow", Access::SignedIn);
static WAITS: Operation = row("waits", "/waits", Access::SignedIn);
static PUBLIC: Operation = row("public", "/public", Access::Public);
static LONG: Operation = row("long", "/long", Access::SignedIn);

type JsonOp = Op<Sent<Value>, Json<Value>>;

const fn op(row: &'static Operation) -> JsonOp {
    Op::new(row)
}

#[derive(Default)]
struct Counts {
    runs: AtomicUsize,
    ended: AtomicUsize,
}

/// Counts the end of a call, including an abort.
struct CountEnd(Arc<Counts>);

impl Drop for CountEnd {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

async fn down(cx: Cx<Counts>, input: Sent<Value>) -> Result<Json<Value>> {
    cx.runs.fetch_add(1, Ordering::Relaxed);
    cx.call(op(&DOWN), input).await
}

async fn slow(cx: Cx<Counts>, Sent(input): Sent<Value>) -> Result<Json<Value>> {
    let calls = cx.calls()?.with_timeout(Duration::from_millis(50));
    // A later deadline does not extend an earlier one.
    let calls = calls.with_timeout(Duration::from_secs(3600));
    calls.call(op(&WAITS), Sent(input)).await
}

async fn waits(cx: Cx<Counts>, _: Sent<Value>) -> Result<Json<Value>> {
    let _ends = CountEnd(cx.state.clone());
    cx.runs.fetch_add(1, Ordering::Relaxed);
    std::future::pending().await
}

async fn public(cx: Cx<Counts>, input: Sent<Value>) -> Result<Json<Value>> {
    cx.call(op(&WAITS), input).await
}

async fn long(_: Cx<Counts>, _: Sent<Value>) -> Result<Json<Value>> {
    Ok(Json("x".repeat(1000).into()))
}

struct Bench {
    router: Router,
    counts: Arc<Counts>,
    _data_dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let data_dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn openorch_store::Store> =
            SqliteStore::open(data_dir.path(), SqliteOptions::default()).unwrap();
        store.open_collections(&[ENTRIES, crate::idempotency::ANSWERS]).await.unwrap();
        let clock = ManualClock::new("2026-11-24T12:00:00Z".parse().unwrap());
        let ages = Arc::new(ExpiryGrace::new(clock.clone(), None, Duration::ZERO, ExpirySettings::default()));
        let audit = Arc::new(Audit::new(store.clone(), clock.clone(), Arc::new(Ids::new(clock.clone())), &ENTRIES));
        let limits = Limits { per_account: 10, total: 10 };
        let repeats = IdempotencyStore::new(store, clock, ages, Encryptor::new("a key"), limits);
        let counts = Arc::new(Counts::default());
        let service = ServiceBuilder::new("a-svc", counts.clone())
            .on(op(&DOWN), down)
            .on(op(&SLOW), slow)
            .on(op(&WAITS), waits)
            .on(op(&PUBLIC), public)
            .on(op(&LONG), long)
            .build();
        let (settings, metrics) = (ApiSettings::default(), Registry::new("test"));
        let router = Router::new(
            vec![service],
            Arc::new(AcceptAnyToken),
            audit,
            repeats,
            settings,
            EventStreams::default(),
            &metrics,
        );
        Bench { router, counts, _data_dir: data_dir }
    }

    /// The `Calls` of a handler of this operation, called by a request.
    fn calls(&self, row: &'static Operation) -> Calls {
        let origin = CallOrigin {
            token: Some("ann".into()),
            request_id: "req_1".into(),
            client_ip: Ipv4Addr::LOCALHOST.into(),
            is_local: true,
            asks_extended: false,
            slot: None,
            call_info: None,
            parent: None,
            depth: 0,
            deadline: None,
        };
        Calls::new(self.router.inner.clone(), row, Arc::new(origin))
    }
}

#[tokio::test]
async fn operations_call_one_another_so_deep_and_no_deeper() {
    let bench = Bench::new().await;
    let error = bench.calls(&DOWN).call(op(&DOWN), Sent(json!({}))).await.unwrap_err();
    assert_eq!(error.code, &codes::platform::CALLS_TOO_DEEP, "{error:?}");
    assert_eq!(bench.counts.runs.load(Ordering::Relaxed), MAX_DEPTH);
}

#[tokio::test]
async fn the_time_for_a_call_ends_those_that_it_makes_and_what_only_reads_is_aborted() {
    let bench = Bench::new().await;
    let error = bench.calls(&DOWN).call(op(&SLOW), Sent(json!({}))).await.unwrap_err();
    assert_eq!(error.code, &codes::platform::CALL_TIMED_OUT, "{error:?}");
    // The runtime drops the aborted task soon.
    tokio::time::timeout(Duration::from_secs(10), async {
        while bench.counts.ended.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let over = bench.calls(&DOWN).with_timeout(Duration::ZERO).call(op(&LONG), Sent(json!({}))).await.unwrap_err();
    assert_eq!(over.code, &codes::platform::CALL_TIMED_OUT);
}

#[tokio::test]
async fn a_public_operation_calls_others_as_nobody() {
    let bench = Bench::new().await;
    let error = bench.calls(&DOWN).call(op(&PUBLIC), Sent(json!({}))).await.unwrap_err();
    assert_eq!((error.code, bench.counts.runs.load(Ordering::Relaxed)), (&access::NO_TOKEN, 0));
}

#[tokio::test]
async fn an_answer_is_read_within_its_limit_and_has_the_form_that_is_asked_for() {
    let bench = Bench::new().await;
    let Json(typed) = bench.calls(&DOWN).call(op(&LONG), Sent(json!({}))).await.unwrap();
    let by_id = async |max_bytes| bench.calls(&DOWN).call_by_id("long", Map::new(), max_bytes).await;
    let answer = by_id(1002).await.unwrap();
    assert_eq!((typed.to_string().as_bytes(), answer.status.as_u16()), (&answer.body[..], 200));
    assert_eq!(by_id(1001).await.err().unwrap().code, &codes::platform::ANSWER_TOO_LARGE);
    let unknown = bench.calls(&DOWN).call_by_id("longer", Map::new(), 1).await.err().unwrap();
    assert_eq!(unknown.code, &request::NO_SUCH_OPERATION);
}
