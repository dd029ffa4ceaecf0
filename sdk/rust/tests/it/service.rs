//! Services built with the service kit, behind a real daemon.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use openorch_sdk::{
    Client, Credential, Error, FileCredentialStore, InstanceRegistration, MemoryCredentialStore, TraceContext,
    api::{
        Body, Json, Path, Query,
        query::PageRequest,
        registry::{Instance, LIST_INSTANCES, ListInstancesRequest},
        role,
        user::{GET_PERMISSIONS_BY_ROLE, READ_USER_BY_TOKEN, REVOKE_TOKENS, RevokeTokensRequest, RoleId},
    },
    http::{HeaderMap, Method},
    service::{
        ApiError, Caller, Platform, Service,
        axum::{
            self, Router,
            routing::{get, post},
        },
    },
    service_client,
    testing::TestDaemon,
};
use openorch_test_support::{WAIT_TIMEOUT, process, stub::Stub, within};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use crate::{daemon, until};

/// A running service and the handle to stop it.
struct RunningService {
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), Error>>,
    _directory: Option<tempfile::TempDir>,
}

impl RunningService {
    fn start(daemon: &TestDaemon, service: Service) -> RunningService {
        let directory = tempfile::tempdir().unwrap();
        let kit = RunningService::start_in(directory.path(), daemon, service);
        RunningService { _directory: Some(directory), ..kit }
    }

    fn start_in(directory: &std::path::Path, daemon: &TestDaemon, service: Service) -> RunningService {
        let service = service.daemon(daemon.url()).listen("127.0.0.1:0").credential_dir(directory);
        let (stop, stopped) = oneshot::channel::<()>();
        RunningService {
            stop,
            running: tokio::spawn(service.run_until(async { drop(stopped.await) })),
            _directory: None,
        }
    }

    async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap().unwrap();
    }
}

async fn instances(client: &Client) -> Vec<Instance> {
    let Json(list) = client.call(LIST_INSTANCES, Query(ListInstancesRequest::default())).await.unwrap();
    list.instances
}

/// Status and body of a GET.
async fn get_text(client: &Client, path: &str) -> (u16, String) {
    let answer = client.request(Method::GET, path, None).await.unwrap();
    (answer.status.as_u16(), String::from_utf8_lossy(&answer.bytes).into_owned())
}

async fn until_reached(client: &Client, path: &str) {
    until(path, async || client.request(Method::GET, path, None).await.unwrap().status.is_success()).await;
}

#[tokio::test]
async fn a_service_is_reached_listed_and_gone_when_it_stops() {
    let daemon = daemon::start(&[]).await;
    let service = Service::new("skeleton-svc")
        .route("/skeleton-svc/hello", get(async || r#"{"hello": "world"}"#))
        .route("/skeleton-svc/thing", post(async || "made"));
    let kit = RunningService::start(&daemon, service);
    let joe = daemon.register("joe").await.unwrap();
    until_reached(&joe, "/skeleton-svc/hello").await;
    assert_eq!(get_text(&joe, "/skeleton-svc/hello").await, (200, r#"{"hello": "world"}"#.into()));
    let listed = &instances(&joe).await[0];
    assert_eq!((listed.slug.as_str(), listed.status.as_str()), ("skeleton-svc", "Healthy"));
    let extra = listed.extra.as_ref().unwrap();
    assert_eq!((extra.health_path.as_str(), extra.heartbeat_seconds), ("/health", 20));
    let (status, text) = get_text(&joe, "/skeleton-svc/nothing").await;
    assert_eq!(
        (status, text.as_str()),
        (404, r#"{"error":"there is nothing at `/skeleton-svc/nothing` in this service"}"#)
    );
    assert_eq!(get_text(&joe, "/skeleton-svc/thing").await.0, 405);
    kit.stop().await;
    assert_eq!(instances(&joe).await, []);
    assert_eq!(get_text(&joe, "/skeleton-svc/hello").await.0, 503);
}

#[tokio::test]
async fn handlers_know_who_calls_and_the_guard_lets_in_whom_the_daemon_would() {
    async fn who(caller: Option<Caller>) -> String {
        caller.map_or("nobody".into(), |caller| caller.slug().to_owned())
    }
    async fn as_caller(platform: Platform, caller: Caller) -> Result<String, ApiError> {
        let Json(answer) = platform.client_of(&caller)?.call(READ_USER_BY_TOKEN, ()).await?;
        let Json(own) = platform.client().call(READ_USER_BY_TOKEN, ()).await?;
        Ok(format!("{} of {} ({})", answer.user.slug, own.user.slug, platform.slug()))
    }
    let daemon = daemon::start(&[]).await;
    // A permission that only the admin has.
    let service = Service::new("skeleton-svc")
        .route("/skeleton-svc/who", get(who))
        .route("/skeleton-svc/as-caller", get(as_caller))
        .route_with_permission("/skeleton-svc/users", "user-svc:user:view", get(async || "all users"));
    let kit = RunningService::start(&daemon, service);
    let (nobody, joe, admin) = (daemon.client(), daemon.register("joe").await.unwrap(), daemon.admin().await.unwrap());
    until_reached(&nobody, "/skeleton-svc/who").await;
    for (client, who, as_caller, users) in
        [(&nobody, "nobody", 401, 401), (&joe, "joe", 200, 403), (&admin, "openorch", 200, 200)]
    {
        assert_eq!(get_text(client, "/skeleton-svc/who").await, (200, who.into()));
        let (status, text) = get_text(client, "/skeleton-svc/as-caller").await;
        assert_eq!(status, as_caller, "{text}");
        assert!(status == 401 || text == format!("{who} of skeleton-svc (skeleton-svc)"), "{text}");
        assert_eq!(get_text(client, "/skeleton-svc/users").await.0, users, "{who}");
    }
    // Without the gateway, the token was not issued for the service.
    let direct = admin.clone().with_url(&instances(&admin).await[0].url).unwrap();
    let (status, text) = get_text(&direct, "/skeleton-svc/who").await;
    assert!(status == 401 && text.contains("not issued for `skeleton-svc`"), "{status} {text}");
    kit.stop().await;
}

#[tokio::test]
async fn permissions_that_a_service_declares_are_there_before_it_can_be_called() {
    let daemon = daemon::start(&[]).await;
    let service = || {
        Service::new("shop-svc")
            .permission("order:view", "See all orders.", &[role::USER])
            .permission("shop-svc:order:edit", "Edit all orders.", &[])
            .route_with_permission("/shop-svc/orders", "order:view", get(async || "all orders").delete(async || ""))
            .route_with_permission("/shop-svc/edit", "order:edit", get(async || "edited"))
            .route(
                "/shop-svc/granting",
                get(async |platform: Platform, caller: Caller| -> Result<&'static str, ApiError> {
                    platform.guard().with_granted_slugs(&["joe"]).require(&caller, "shop-svc:order:edit").await?;
                    Ok("granted")
                }),
            )
    };
    let directory = tempfile::tempdir().unwrap();
    let (joe, ann) = (daemon.register("joe").await.unwrap(), daemon.register("ann").await.unwrap());
    // Twice, since a restarted service declares them again.
    for _ in 0..2 {
        let kit = RunningService::start_in(directory.path(), &daemon, service());
        until_reached(&joe, "/shop-svc/orders").await;
        assert_eq!(get_text(&joe, "/shop-svc/orders").await, (200, "all orders".into()));
        assert_eq!(get_text(&daemon.client(), "/shop-svc/orders").await.0, 401);
        assert_eq!(get_text(&joe, "/shop-svc/edit").await.0, 403, "no role has it");
        assert_eq!(get_text(&joe, "/shop-svc/granting").await.1, "granted");
        assert_eq!(get_text(&ann, "/shop-svc/granting").await.0, 403);
        let user_role = (Path(RoleId(role::USER.into())), Query(PageRequest::default()));
        let all = daemon.admin().await.unwrap().call(GET_PERMISSIONS_BY_ROLE, user_role).await;
        let all = all.unwrap().0.permissions;
        let declared = all.iter().find(|permission| permission.id == "shop-svc:order:view").unwrap();
        assert_eq!(declared.description, "See all orders.");
        kit.stop().await;
    }
    let directory = tempfile::tempdir().unwrap();
    let refused = Service::new("late-svc").daemon(daemon.url()).credential_dir(directory.path());
    let refused = refused.permission("a:b", "", &["user-svc:no-such-role"]);
    let error = refused.run_until(std::future::pending()).await.unwrap_err();
    assert!(error.to_string().starts_with("assignPermissions: "), "{error}");
}

#[tokio::test]
async fn what_is_under_way_is_finished_after_the_instance_is_gone() {
    let daemon = daemon::start(&[]).await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = get({
        let (begun, go_on) = (begun.clone(), go_on.clone());
        async move || {
            begun.notify_one();
            go_on.notified().await;
            "done"
        }
    });
    let service = Service::new("slow-svc").route("/slow-svc/slow", slow).route("/slow-svc/quick", get(async || "yes"));
    let (kit, joe) = (RunningService::start(&daemon, service), daemon.register("joe").await.unwrap());
    until_reached(&joe, "/slow-svc/quick").await;
    let under_way = tokio::spawn({
        let joe = joe.clone();
        async move { get_text(&joe, "/slow-svc/slow").await }
    });
    within(WAIT_TIMEOUT, "the request has reached the service", begun.notified()).await;
    drop(kit.stop);
    until("the instance is removed", async || instances(&joe).await.is_empty()).await;
    assert!(!under_way.is_finished());
    go_on.notify_one();
    assert_eq!(under_way.await.unwrap(), (200, "done".into()));
    kit.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_a_service_from_stopping() {
    let daemon = daemon::start(&[]).await;
    let begun = Arc::new(Notify::new());
    let never = get({
        let begun = begun.clone();
        async move || {
            begun.notify_one();
            std::future::pending::<()>().await
        }
    });
    let service = Service::new("slow-svc")
        .route("/slow-svc/quick", get(async || "yes"))
        .route("/slow-svc/never", never)
        .drain(Duration::from_millis(100));
    let (kit, joe) = (RunningService::start(&daemon, service), daemon.register("joe").await.unwrap());
    until_reached(&joe, "/slow-svc/quick").await;
    let never = tokio::spawn(async move { joe.request(Method::GET, "/slow-svc/never", None).await });
    within(WAIT_TIMEOUT, "the request has reached the service", begun.notified()).await;
    kit.stop().await;
    never.abort();
}

#[tokio::test]
async fn what_is_cut_ends_at_the_limit_and_its_callers_are_told() {
    struct Ended(Option<oneshot::Sender<()>>);
    impl Drop for Ended {
        fn drop(&mut self) {
            drop(self.0.take());
        }
    }
    let (tell, ended) = oneshot::channel();
    let tell = std::sync::Arc::new(std::sync::Mutex::new(Some(tell)));
    let never = get({
        let tell = std::sync::Arc::clone(&tell);
        async move || {
            let _ended = Ended(tell.lock().unwrap().take());
            std::future::pending::<()>().await
        }
    });
    let daemon = daemon::start(&[]).await;
    let service = Service::new("slow-svc")
        .route("/slow-svc/quick", get(async || "yes"))
        .route("/slow-svc/never", never)
        .drain(Duration::from_millis(50));
    let (kit, joe) = (RunningService::start(&daemon, service), daemon.register("joe").await.unwrap());
    until_reached(&joe, "/slow-svc/quick").await;
    let direct = joe.clone().with_url(&instances(&joe).await[0].url).unwrap();
    let under_way = tokio::spawn(async move { get_text(&direct, "/slow-svc/never").await });
    until("the request is in flight", async || tell.lock().unwrap().is_none()).await;
    kit.stop().await;
    assert!(ended.await.is_err(), "the handler is dropped");
    assert_eq!(
        under_way.await.unwrap(),
        (503, r#"{"error":"the service is shutting down; try again in a moment"}"#.into())
    );
}

#[tokio::test]
async fn an_answer_without_end_is_cut_at_the_limit_too() {
    /// Sends one chunk and then never ends.
    struct Endless(bool);
    impl axum::body::HttpBody for Endless {
        type Data = openorch_sdk::Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context,
        ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(http_body::Frame::data("first".into()))))
        }
    }
    let daemon = daemon::start(&[]).await;
    let service = Service::new("slow-svc")
        .route("/slow-svc/quick", get(async || "yes"))
        .route("/slow-svc/endless", get(async || axum::body::Body::new(Endless(false))))
        .drain(Duration::from_millis(50));
    let (kit, joe) = (RunningService::start(&daemon, service), daemon.register("joe").await.unwrap());
    until_reached(&joe, "/slow-svc/quick").await;
    let direct = joe.clone().with_url(&instances(&joe).await[0].url).unwrap();
    let mut answer = direct.stream(Method::GET, "/slow-svc/endless", None).await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "first");
    kit.stop().await;
    let error = answer.chunk().await.unwrap_err().to_string();
    assert!(error.starts_with("GET /slow-svc/endless: ") && error.contains("the response is incomplete"), "{error}");
}

#[tokio::test]
async fn a_trace_goes_through_the_service_to_whom_it_calls() {
    let stub = Stub::new(|_| openorch_test_support::stub::json(200, "{}"));
    let url = stub.url.clone();
    let call = get(async move |platform: Platform| {
        let other = platform.client().clone().with_url(&url).unwrap();
        other.request(Method::GET, "/other-svc/x", None).await.unwrap();
        TraceContext::current().unwrap().to_string()
    });
    let daemon = daemon::start(&[]).await;
    let kit = RunningService::start(
        &daemon,
        Service::new("a-svc").route("/a-svc/call", call).route("/a-svc/x", get(async || "x")),
    );
    until_reached(&daemon.client(), "/a-svc/x").await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = daemon.client().with_header("traceparent", parent).unwrap().with_header("tracestate", "v=1").unwrap();
    let (_, step) = get_text(&traced, "/a-svc/call").await;
    let seen = stub.requests();
    let sent = seen[0].header("traceparent").unwrap();
    assert!(sent.starts_with(&parent[..36]) && step.starts_with(&parent[..36]), "{sent} {step}");
    assert!(sent != parent && step != parent && sent != step, "each span has its own id");
    assert_eq!(seen[0].header("tracestate"), Some("v=1"));
    assert!(get_text(&daemon.client(), "/a-svc/call").await.1 != step, "without a trace a new one is started");
    kit.stop().await;
}

#[tokio::test]
async fn any_tower_service_answers_what_no_route_does() {
    let daemon = daemon::start(&[]).await;
    let router = Router::new().route("/a-svc/a", get(async |platform: Platform| platform.slug().to_owned()));
    let kit = RunningService::start(
        &daemon,
        Service::new("a-svc").fallback_service(router).route("/a-svc/b", get(async || "b")),
    );
    until_reached(&daemon.client(), "/a-svc/b").await;
    assert_eq!(get_text(&daemon.client(), "/a-svc/a").await.1, "a-svc");
    assert_eq!(get_text(&daemon.client(), "/a-svc/b").await.1, "b");
    kit.stop().await;
}

#[tokio::test]
async fn an_instance_that_the_daemon_has_lost_is_registered_anew_by_an_account_made_anew() {
    let mut daemon = daemon::start(&[]).await;
    let client = service_client(&daemon.client(), "a-svc", "A", MemoryCredentialStore::default()).await.unwrap();
    let registration = InstanceRegistration::new("http://127.0.0.1:9").heartbeat(Duration::from_secs(1));
    let instance = registration.register(&client).await.unwrap();
    let lost = instance.id();
    daemon.kill();
    std::fs::remove_dir_all(daemon.data_dir().join("server")).unwrap();
    daemon.resume().await.unwrap();
    let joe = daemon.register("joe").await.unwrap();
    until("the instance is registered again", async || !instances(&joe).await.is_empty()).await;
    until("the new id is reported", async || instance.id() != lost).await;
    instance.deregister().await.unwrap();
    assert_eq!(instances(&joe).await, []);
}

#[tokio::test]
async fn a_service_whose_session_was_ended_signs_in_again_and_its_call_succeeds() {
    let daemon = daemon::start(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let store = FileCredentialStore::new(directory.path(), "a-svc");
    let client = service_client(&daemon.client(), "a-svc", "A", store.clone()).await.unwrap();
    let user_id = client.call(READ_USER_BY_TOKEN, ()).await.unwrap().0.user.id;
    let all = RevokeTokensRequest { user_id: Some(user_id), all_tokens: Some(true), device: None };
    daemon.admin().await.unwrap().call(REVOKE_TOKENS, Body(all.clone())).await.unwrap();
    // Ten concurrent calls: one of them signs in, and all succeed.
    let calls = (0..10).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.call(READ_USER_BY_TOKEN, ()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().0.user.slug, "a-svc");
    }
    // A session that is revoked again right away is an error: there is a minimum interval between sign-ins.
    daemon.admin().await.unwrap().call(REVOKE_TOKENS, Body(all)).await.unwrap();
    assert_eq!(client.call(READ_USER_BY_TOKEN, ()).await.unwrap_err().status(), Some(401));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    client.call(READ_USER_BY_TOKEN, ()).await.unwrap();
}

#[tokio::test]
async fn a_service_that_cannot_run_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let service = |slug| Service::new(slug).daemon("http://127.0.0.1:1").credential_dir(directory.path());
    let yes = || get(async || "yes");
    for (service, why) in [
        (service("Not a slug"), "slug `Not a slug` may contain only"),
        (service("a-svc").route("/hello", yes()), "the path `/hello` is unreachable"),
        (service("a-svc").route("/a-svcx/hello", yes()), "is unreachable"),
        (service("a-svc").route("a-svc/hello", yes()), "is unreachable"),
        (service("a-svc").route("/a-svc/x", yes()).route("/a-svc/x", post(async || "")), "has two routes"),
        (service("a-svc").permission("user-svc:user:view", "", &[]), "this service cannot declare the permission"),
        (service("a-svc").route("/a-svc/:id", yes()), "write the parameter as `{id}`"),
        (service("a-svc").route("/a-svc/*rest", yes()), "write the wildcard as `{*rest}`"),
        (service("a-svc").route("/a-svc/{id", yes()), "is neither literal nor a single"),
        (service("a-svc").route("/a-svc/x{id}", yes()), "is neither literal nor a single"),
        (service("a-svc").route("/a-svc/{}", yes()), "is neither literal nor a single"),
        (service("a-svc").route("/a-svc/{*rest}/x", yes()), "must be last"),
        (service("a-svc").route("/a-svc/{a}", yes()).route("/a-svc/{b}", yes()), "has two routes"),
        (
            service("a-svc").credentials(MemoryCredentialStore::with(Credential::random("b-svc").unwrap())),
            "the memory of this process contains the credential of `b-svc`, but this service is `a-svc`",
        ),
        (service("a-svc").listen(&taken), "cannot listen on 127.0.0.1"),
        (service("a-svc").listen("0.0.0.0:0"), "SELF_URL is not set"),
        (service("a-svc").advertise_url("9311"), "SELF_URL is `9311`"),
        (service("a-svc").daemon("nowhere"), "`nowhere` is not a server URL"),
    ] {
        let error = service.run_until(std::future::pending()).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error} does not say `{why}`");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_that_comes_while_the_service_starts_is_not_lost() {
    // Signals are per process, so this test runs itself in a child process, whose daemon never responds.
    if let Ok(url) = std::env::var("SILENT_DAEMON") {
        let directory = tempfile::tempdir().unwrap();
        let service = Service::new("a-svc").daemon(&url).listen("127.0.0.1:0").credential_dir(directory.path());
        assert_eq!(service.run().await, std::process::ExitCode::SUCCESS);
        return;
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.arg("a_signal_that_comes_while_the_service_starts_is_not_lost");
    child.env("SILENT_DAEMON", format!("http://{}", silent.local_addr().unwrap()));
    let child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // The child is signing in now.
    let held = silent.accept().unwrap();
    process::terminate(&child);
    let ran = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stdout).contains("1 passed"), "{ran:?}");
    drop(held);
}

#[tokio::test]
async fn a_service_stops_while_it_waits_for_a_daemon_that_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::new("a-svc").daemon("http://127.0.0.1:1").credential_dir(directory.path());
    // While it is retrying, which cannot be observed.
    service.run_until(tokio::time::sleep(Duration::from_millis(300))).await.unwrap();
}

#[test]
fn a_client_of_a_request_without_token_calls_as_nobody() {
    let client = openorch_sdk::ClientFactory::new("http://127.0.0.1:1").unwrap().client().with_token("own").unwrap();
    assert!(format!("{:?}", client.with_forwarded_token(&HeaderMap::new())).contains("has_token: false"));
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_and_not_called_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let daemon = daemon::start(&[]).await;
    let panics = async || -> &'static str {
        CALLS.fetch_add(1, Ordering::SeqCst);
        panic!("no such thing")
    };
    let service =
        Service::new("shaky-svc").route("/shaky-svc/x", get(panics)).route("/shaky-svc/ok", get(async || "ok"));
    let kit = RunningService::start(&daemon, service);
    let url = |path: &str| format!("{}/shaky-svc/{path}", daemon.url());
    until("the service is reachable", async || {
        reqwest::get(url("ok")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let answer = reqwest::get(url("x")).await.unwrap();
    assert_eq!(answer.status(), 500);
    let text = answer.text().await.unwrap();
    assert!(text.contains("its log has the cause") && !text.contains("no such thing"), "{text}");
    assert_eq!(CALLS.load(Ordering::SeqCst), 1, "the gateway does not retry it as a broken connection");
    assert_eq!(reqwest::get(url("ok")).await.unwrap().status(), 200);
    kit.stop().await;
}
