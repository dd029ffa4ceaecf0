//! Nested calls that no built-in operation makes: deep ones, slow ones, and calls of a public operation.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::HeaderValue;
use openorch_api::{Body as Sent, Json, Row, error::access, op};
use openorch_store::{SqliteOptions, SqliteStore};
use serde_json::json;

use super::*;
use crate::{
    Audit, BoxFuture, Caller, Credential, Cx, Identity, Passage, Service,
    ages::{Ages, ExpirySettings},
    audit::ENTRIES,
    clock::ManualClock,
    events::Streams,
    ids::Ids,
    metrics::Registry,
    repeat::{Limits, Repeats},
    router::{ApiSettings, Router},
    seal::Seal,
};

/// Accepts every token, as an account of that name without permissions.
struct Anybody;

impl Identity for Anybody {
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
    fn opens(&self, _: &str, _: &str) -> bool {
        false
    }
    fn passage_cached(&self, _: &HeaderValue, _: &str) -> Option<Result<Passage>> {
        Some(Ok(Passage::Untouched))
    }
    fn passage<'a>(&'a self, _: &'a HeaderValue, _: &'a str) -> BoxFuture<'a, Result<Passage>> {
        Box::pin(async { Ok(Passage::Untouched) })
    }
    fn claims_to_be_ours(&self, _: &[u8]) -> bool {
        false
    }
    fn ended_credentials<'a>(&'a self, _: &'a [Credential]) -> BoxFuture<'a, Vec<Credential>> {
        Box::pin(async { Vec::new() })
    }
}

const fn row(id: &'static str, path: &'static str, access: Access) -> Row {
    Row {
        id,
        path,
        access,
        input: <Sent<Value> as Input>::describe,
        output: <Json<Value> as Output>::describe,
        ..op::TEMPLATE
    }
}

static DOWN: Row = row("down", "/down", Access::SignedIn);
static SLOW: Row = row("slow", "/slow", Access::SignedIn);
static WAITS: Row = row("waits", "/waits", Access::SignedIn);
static PUBLIC: Row = row("public", "/public", Access::Public);
static LONG: Row = row("long", "/long", Access::SignedIn);

type Operation = Op<Sent<Value>, Json<Value>>;

const fn op(row: &'static Row) -> Operation {
    Op::new(row)
}

#[derive(Default)]
struct Counts {
    runs: AtomicUsize,
    ended: AtomicUsize,
}

/// Counts the end of a call, including an abort.
struct Ends(Arc<Counts>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

async fn down(cx: Cx<Counts>, input: Sent<Value>) -> Result<Json<Value>> {
    cx.runs.fetch_add(1, Ordering::Relaxed);
    cx.call(op(&DOWN), input).await
}

async fn slow(cx: Cx<Counts>, Sent(input): Sent<Value>) -> Result<Json<Value>> {
    let calls = cx.calls()?.within(Duration::from_millis(50));
    // A later deadline does not extend an earlier one.
    let calls = calls.within(Duration::from_secs(3600));
    calls.call(op(&WAITS), Sent(input)).await
}

async fn waits(cx: Cx<Counts>, _: Sent<Value>) -> Result<Json<Value>> {
    let _ends = Ends(cx.state.clone());
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
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn openorch_store::Store> = SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap();
        store.open_collections(&[ENTRIES, crate::repeat::ANSWERS]).await.unwrap();
        let clock = ManualClock::new("2026-11-24T12:00:00Z".parse().unwrap());
        let ages = Arc::new(Ages::new(clock.clone(), None, Duration::ZERO, ExpirySettings::default()));
        let audit = Arc::new(Audit::new(store.clone(), clock.clone(), Arc::new(Ids::new(clock.clone())), &ENTRIES));
        let limits = Limits { per_account: 10, total: 10 };
        let repeats = Repeats::new(store, clock, ages, Seal::new("a key"), limits);
        let counts = Arc::new(Counts::default());
        let service = Service::new("a-svc", counts.clone())
            .on(op(&DOWN), down)
            .on(op(&SLOW), slow)
            .on(op(&WAITS), waits)
            .on(op(&PUBLIC), public)
            .on(op(&LONG), long)
            .mount();
        let (settings, metrics) = (ApiSettings::default(), Registry::new("test"));
        let router =
            Router::new(vec![service], Arc::new(Anybody), audit, repeats, settings, Streams::default(), &metrics);
        Bench { router, counts, _folder: folder }
    }

    /// The `Calls` of a handler of this operation, called by a request.
    fn calls(&self, row: &'static Row) -> Calls {
        let origin = Origin {
            token: Some("ann".into()),
            request_id: "req_1".into(),
            client_ip: Ipv4Addr::LOCALHOST.into(),
            from_this_machine: true,
            asks_extended: false,
            place: None,
            notes: None,
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
    let over = bench.calls(&DOWN).within(Duration::ZERO).call(op(&LONG), Sent(json!({}))).await.unwrap_err();
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
    let by_id = async |most| bench.calls(&DOWN).call_by_id("long", Map::new(), most).await;
    let answer = by_id(1002).await.unwrap();
    assert_eq!((typed.to_string().as_bytes(), answer.status.as_u16()), (&answer.body[..], 200));
    assert_eq!(by_id(1001).await.err().unwrap().code, &codes::platform::ANSWER_TOO_LARGE);
    let unknown = bench.calls(&DOWN).call_by_id("longer", Map::new(), 1).await.err().unwrap();
    assert_eq!(unknown.code, &request::NO_SUCH_OPERATION);
}
