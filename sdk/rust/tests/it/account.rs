//! Startup of a service: its account, its instance, and retries while the daemon is not available yet.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use openorch_sdk::{
    Client, ClientFactory, CredentialStore, Error, FileCredentialStore, InstanceRegistration, MemoryCredentialStore,
    api::user::READ_USER_BY_TOKEN, register_service_account, register_service_account_with_timeout, service_client,
};
use openorch_test_support::{
    WAIT_TIMEOUT, free_address, gate,
    stub::{Request, Stub, json},
    within,
};

fn client(stub: &Stub) -> Client {
    ClientFactory::new(&stub.url).unwrap().client()
}

/// A minimal user-svc: accounts with passwords.
fn accounts() -> impl Fn(&Request) -> String + Send + Sync {
    let accounts = Mutex::new(std::collections::BTreeMap::<String, String>::new());
    move |request| {
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        let mut accounts = accounts.lock().unwrap();
        match (request.target.as_str(), accounts.get(&text("slug"))) {
            ("/user-svc/login", None) => json(400, r#"{"error": "No.", "code": "user.slug_not_found"}"#),
            ("/user-svc/login", Some(password)) if *password != text("password") => {
                json(401, r#"{"error": "No.", "code": "user.wrong_password"}"#)
            }
            ("/user-svc/register", Some(_)) => json(409, r#"{"error": "No.", "code": "user.slug_taken"}"#),
            ("/user-svc/register", None) => {
                accounts.insert(text("slug"), text("password"));
                json(200, r#"{"token":{"token":"jwt"}}"#)
            }
            _ => json(200, r#"{"token":{"token":"jwt"}}"#),
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// Advances the Tokio clock, which triggers heartbeats. It is paused only briefly, since the connections to the stub use
/// real time.
async fn advance_clock(time: Duration) {
    // Let tasks that were just spawned register their timers first.
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn lines(stub: &Stub) -> Vec<String> {
    stub.requests().iter().map(Request::line).collect()
}

#[tokio::test]
async fn the_first_start_registers_and_the_second_signs_in_with_the_same_password() {
    let (stub, directory) = (Stub::new(accounts()), tempfile::tempdir().unwrap());
    let store = FileCredentialStore::new(directory.path(), "skeleton-svc");
    for _ in 0..2 {
        let token = register_service_account(&client(&stub), "skeleton-svc", "Skeleton Svc", &store).await.unwrap();
        assert_eq!(token, "jwt");
    }
    assert_eq!(lines(&stub), ["POST /user-svc/login", "POST /user-svc/register", "POST /user-svc/login"]);
    assert!(stub.requests()[1].body.contains(r#""name":"Skeleton Svc""#));
    let kept = store.load().await.unwrap().unwrap();
    assert!(stub.requests().iter().all(|request| request.body.contains(&kept.password)));
}

#[tokio::test]
async fn the_password_is_kept_before_the_server_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("skeleton-svc.json");
    let stub = Stub::new(move |request| {
        let kept = std::fs::read_to_string(&path).expect("the credential is already on disk");
        let sent: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        assert!(kept.contains(sent["password"].as_str().unwrap()));
        json(500, r#"{"error": "crash"}"#)
    });
    let store = FileCredentialStore::new(directory.path(), "skeleton-svc");
    let error = register_service_account(&client(&stub), "skeleton-svc", "S", &store).await.unwrap_err();
    assert_eq!(error.status(), Some(500));
}

#[tokio::test]
async fn a_lost_credential_is_told_with_the_way_out_and_registers_nothing() {
    let stub = Stub::new(accounts());
    let first = MemoryCredentialStore::default();
    register_service_account(&client(&stub), "skeleton-svc", "S", &first).await.unwrap();
    let lost = MemoryCredentialStore::default();
    let error = register_service_account(&client(&stub), "skeleton-svc", "S", &lost).await.unwrap_err();
    assert!(matches!(&error, Error::Credential(text) if text.contains("is not that of account")), "{error}");
    assert_eq!(stub.requests().len(), 3);
}

#[tokio::test]
async fn a_copy_that_registered_in_between_is_signed_in_to() {
    let logins = Mutex::new(0);
    let stub = Stub::new(move |request| {
        let mut logins = logins.lock().unwrap();
        *logins += usize::from(request.target.ends_with("login"));
        match (request.target.as_str(), *logins) {
            ("/user-svc/login", 1) => json(400, r#"{"error": "No.", "code": "user.slug_not_found"}"#),
            ("/user-svc/register", _) => json(409, r#"{"error": "No.", "code": "user.slug_taken"}"#),
            _ => json(200, r#"{"token":{"token":"jwt"}}"#),
        }
    });
    let token = register_service_account(&client(&stub), "a-svc", "A", &MemoryCredentialStore::default()).await;
    assert_eq!(token.unwrap(), "jwt");
}

#[tokio::test]
async fn another_400_is_not_taken_for_an_account_to_register() {
    let stub = Stub::new(|_| json(400, r#"{"error": "Slug not found", "code": "request.invalid_input"}"#));
    let error =
        register_service_account(&client(&stub), "A", "A", &MemoryCredentialStore::default()).await.unwrap_err();
    assert_eq!((error.status(), lines(&stub)), (Some(400), vec!["POST /user-svc/login".to_owned()]));
}

#[tokio::test]
async fn a_service_waits_for_the_daemon_and_gives_up_when_told_to() {
    let address = free_address();
    let away = ClientFactory::new(&format!("http://{address}")).unwrap().client();
    let store = MemoryCredentialStore::default();
    let error = register_service_account_with_timeout(Duration::ZERO, &away, "a-svc", "A", &store).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");

    let waiting =
        tokio::spawn(
            async move { register_service_account(&away, "a-svc", "A", &MemoryCredentialStore::default()).await },
        );
    // Long enough for at least one refused connection, which cannot be observed.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let _stub = Stub::on(std::net::TcpListener::bind(address).unwrap(), accounts());
    assert_eq!(waiting.await.unwrap().unwrap(), "jwt");
}

#[tokio::test]
async fn an_instance_is_registered_beats_and_says_good_bye() {
    let stub = Stub::new(|request| match request.method.as_str() {
        "PUT" => json(201, r#"{"extra":{"id":"inst_1","status":"Healthy"}}"#),
        _ => "HTTP/1.1 204 X\r\n\r\n".into(),
    });
    let registration = InstanceRegistration::new("http://127.0.0.1:9311").health_path("/health");
    let client = client(&stub);
    let instance = registration.heartbeat(HOUR).register(&client).await.unwrap();
    assert_eq!(instance.id().as_deref(), Some("inst_1"));
    advance_clock(HOUR).await;
    crate::until("a heartbeat is sent", async || stub.requests().len() == 2).await;
    instance.deregister().await.unwrap();
    advance_clock(HOUR).await;
    // A heartbeat would be sent before this.
    client.request(openorch_sdk::http::Method::POST, "/last", None).await.unwrap();
    assert_eq!(
        lines(&stub),
        [
            "PUT /registry-svc/instance",
            "PUT /registry-svc/instance",
            "DELETE /registry-svc/instance/inst_1",
            "POST /last"
        ]
    );
    let body = r#"{"healthPath":"/health","heartbeatSeconds":3600,"url":"http://127.0.0.1:9311"}"#;
    assert_eq!([stub.requests()[0].body.as_str(), stub.requests()[1].body.as_str()], [body, body]);
}

#[tokio::test]
async fn with_a_server_that_does_not_say_the_id_the_instance_is_found_by_its_url() {
    let stub = Stub::new(|request| match request.method.as_str() {
        "PUT" => json(201, "{}"),
        "GET" => json(200, r#"{"instances":[{"id":"inst_9","url":"http://127.0.0.1:9311","status":"Unknown"}]}"#),
        _ => json(404, r#"{"error": "No.", "code": "registry.no_such_instance"}"#),
    });
    let instance = InstanceRegistration::new("http://127.0.0.1:9311/").register(&client(&stub)).await.unwrap();
    instance.deregister().await.expect("an instance that is already removed is no error");
    assert_eq!(lines(&stub)[2], "DELETE /registry-svc/instance/inst_9");
}

#[tokio::test]
async fn a_beat_that_is_not_answered_does_not_keep_an_instance_from_leaving() {
    let (let_go, held) = gate();
    let beats = Mutex::new(0);
    let stub = Stub::new(move |request| {
        if request.method != "PUT" {
            return "HTTP/1.1 204 X\r\n\r\n".into();
        }
        let beat = {
            let mut beats = beats.lock().unwrap();
            *beats += 1;
            *beats
        };
        if beat > 1 {
            held.wait();
        }
        json(201, r#"{"extra":{"id":"inst_1","status":"Healthy"}}"#)
    });
    let registration = InstanceRegistration::new("http://127.0.0.1:9311").heartbeat(HOUR);
    let instance = registration.register(&client(&stub)).await.unwrap();
    advance_clock(HOUR).await;
    crate::until("a heartbeat is sent", async || stub.requests().len() == 2).await;
    within(WAIT_TIMEOUT, "the instance is deregistered", instance.deregister()).await.unwrap();
    assert_eq!(lines(&stub)[2], "DELETE /registry-svc/instance/inst_1");
    drop(let_go);
}

#[tokio::test]
async fn a_caller_who_gives_up_does_not_leave_the_service_signed_out() {
    let (let_go, held) = gate();
    let logins = Mutex::new(0);
    let stub = Stub::new(move |request| match request.target.as_str() {
        "/user-svc/login" => {
            let login = {
                let mut logins = logins.lock().unwrap();
                *logins += 1;
                *logins
            };
            if login == 2 {
                held.wait();
            }
            json(200, &format!(r#"{{"token":{{"token":"t{login}"}}}}"#))
        }
        _ if request.header("authorization") == Some("Bearer t1") => json(401, r#"{"error":"the session has ended"}"#),
        _ => json(200, r#"{"user":{"id":"usr_1","slug":"a-svc"}}"#),
    });
    let client = service_client(&client(&stub), "a-svc", "A", MemoryCredentialStore::default()).await.unwrap();
    let impatient = tokio::spawn({
        let client = client.clone();
        async move { client.call(READ_USER_BY_TOKEN, ()).await }
    });
    crate::until("the service signs in again", async || stub.requests().len() == 3).await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    drop(let_go);
    assert_eq!(client.call(READ_USER_BY_TOKEN, ()).await.unwrap().0.user.slug, "a-svc");
    assert_eq!(stub.requests().iter().filter(|request| request.target.ends_with("login")).count(), 2);
}

#[tokio::test]
async fn two_copies_that_start_at_once_share_one_account() {
    let (daemon, directory) = (crate::daemon::start(&[]).await, tempfile::tempdir().unwrap());
    let copies = (0..4).map(|_| {
        let (client, store) = (daemon.client(), FileCredentialStore::new(directory.path(), "a-svc"));
        tokio::spawn(async move {
            let client = service_client(&client, "a-svc", "A", store).await?;
            Ok::<_, Error>(client.call(READ_USER_BY_TOKEN, ()).await?.0.user.id)
        })
    });
    let mut ids = std::collections::BTreeSet::new();
    for copy in copies.collect::<Vec<_>>() {
        ids.insert(copy.await.unwrap().unwrap());
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_service_that_lost_its_credential_file_is_told_the_way_out_by_the_real_daemon_too() {
    let (daemon, directory) = (crate::daemon::start(&[]).await, tempfile::tempdir().unwrap());
    let store = FileCredentialStore::new(directory.path(), "a-svc");
    register_service_account(&daemon.client(), "a-svc", "A", &store).await.unwrap();
    std::fs::remove_file(directory.path().join("a-svc.json")).unwrap();
    let error = register_service_account(&daemon.client(), "a-svc", "A", &store).await.unwrap_err();
    assert!(matches!(&error, Error::Credential(text) if text.contains("have an admin reset")), "{error}");
}

#[tokio::test]
async fn a_broken_credential_file_stays_as_it_is_and_nothing_is_sent() {
    let (stub, directory) = (Stub::new(accounts()), tempfile::tempdir().unwrap());
    let path = directory.path().join("a-svc.json");
    for broken in ["", "{\"slug\":\"a-s", "[]", "{\"slug\":\"a-svc\"}", "<html>"] {
        std::fs::write(&path, broken).unwrap();
        let store = FileCredentialStore::new(directory.path(), "a-svc");
        let error = register_service_account(&client(&stub), "a-svc", "A", &store).await.unwrap_err();
        assert!(matches!(&error, Error::Credential(text) if text.contains("is damaged")), "{broken}: {error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
    }
    std::fs::write(&path, b"\xff\xfe").unwrap();
    let store = FileCredentialStore::new(directory.path(), "a-svc");
    let error = register_service_account(&client(&stub), "a-svc", "A", &store).await.unwrap_err();
    assert!(matches!(&error, Error::Credential(_)), "{error}");
    assert_eq!(stub.requests().len(), 0);
}

#[cfg(unix)]
#[test]
fn without_a_home_a_service_says_where_it_would_keep_its_credential() {
    use std::os::unix::process::CommandExt;
    // The environment is per process, so this test runs itself in a child process without a home directory, under a user id
    // that is not in the user database.
    if std::env::var_os("IS_CHILD").is_some() {
        let error = FileCredentialStore::in_home("a-svc").unwrap_err().to_string();
        assert!(error.contains("there is no home directory") && error.contains("set HOME"), "{error}");
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.arg("without_a_home_a_service_says_where_it_would_keep_its_credential").env("IS_CHILD", "1");
    // An empty HOME means that there is no home directory, whatever the user database says.
    let ran = child.env("HOME", "").output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stdout).contains("1 passed"), "{ran:?}");
    match child.env_remove("HOME").uid(54_321).output() {
        Ok(ran) => assert!(String::from_utf8_lossy(&ran.stdout).contains("1 passed"), "{ran:?}"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => eprintln!("SKIP: this needs root"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_daemon_that_asks_for_patience_is_waited_for() {
    let count = Mutex::new(0);
    let stub = Stub::new(move |_| {
        *count.lock().unwrap() += 1;
        match *count.lock().unwrap() {
            1 => json(503, r#"{"error": "the store is away"}"#),
            2 => json(429, r#"{"error": "too many at once"}"#),
            _ => json(200, r#"{"token":{"token":"jwt"}}"#),
        }
    });
    let token = register_service_account(&client(&stub), "a-svc", "A", &MemoryCredentialStore::default()).await;
    assert_eq!((token.unwrap().as_str(), stub.requests().len()), ("jwt", 3));
}

#[tokio::test]
async fn a_daemon_that_says_when_to_come_back_is_asked_then_and_not_before() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let times = asked.clone();
    let stub = Stub::new(move |_| {
        let mut times = times.lock().unwrap();
        times.push(std::time::Instant::now());
        let seconds = if times.len() == 1 { 1 } else { 900 };
        json(429, r#"{"error": "too many guesses"}"#)
            .replace("X-Request-Id", &format!("Retry-After: {seconds}\r\nX-Request-Id"))
    });
    let store = MemoryCredentialStore::default();
    let refused = register_service_account(&client(&stub), "a-svc", "A", &store).await.unwrap_err();
    assert_eq!(refused.status(), Some(429), "a Retry-After beyond the retry limit is returned immediately");
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert!(asked[1] - asked[0] >= Duration::from_secs(1));
}
