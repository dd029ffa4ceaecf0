//! Batches of operations: each call is answered as if sent alone, and a batch grants no additional rights.

use std::collections::BTreeSet;

use openorch_api::{Access, Effect, platform::CALL_OPERATIONS};
use serde_json::{Value, json};

use crate::support::{Answer, Daemon, Echo, delegated_token, id_of, status, token_of};

const PATH: &str = CALL_OPERATIONS.row.path;

async fn batch(daemon: &Daemon, token: &str, body: Value) -> Answer {
    daemon.call("POST", PATH, token, body).await
}

/// The answers to these calls. Each refusal among them must have a code that its operation declares.
async fn answers(daemon: &Daemon, token: &str, calls: Value) -> Vec<Value> {
    let answer = batch(daemon, token, json!({ "calls": calls })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answers = answer.json()["answers"].as_array().unwrap().clone();
    assert_eq!(answers.len(), calls.as_array().unwrap().len());
    for (call, answer) in calls.as_array().unwrap().iter().zip(&answers) {
        let Some(code) = answer["code"].as_str() else {
            assert!(answer["status"].as_u64().unwrap() < 300, "{call}: {answer}");
            continue;
        };
        let code = openorch_api::errors().find(|known| known.id == code).unwrap();
        assert_eq!(answer["status"], code.status, "{call}: {answer}");
        let row = openorch_api::operations().find(|row| call["operation"] == row.id);
        let of_batch = CALL_OPERATIONS.row.may_return_error(code) || code.id == "request.no_such_operation";
        assert!(of_batch || row.is_some_and(|row| row.may_return_error(code)), "{call} does not declare it: {answer}");
    }
    answers
}

fn codes(answers: &[Value]) -> Vec<&str> {
    answers.iter().map(|answer| answer["code"].as_str().unwrap_or("done")).collect()
}

#[tokio::test]
async fn each_call_of_a_batch_is_answered_as_by_itself_and_in_order() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    let found = answers(
        &daemon,
        &ann,
        json!([
            { "operation": "createRole", "input": { "id": "ann:cook", "name": "Cook" } },
            { "operation": "createRole", "input": { "id": "ann" } },
            { "operation": "getPermissionsByRole", "input": { "roleId": "ann:cook", "limit": 5 } },
            { "operation": "removeInstance", "input": { "id": "inst_1" } },
            { "operation": "removeInstance", "input": { "id": "" } },
            { "operation": "removeInstance" },
            { "operation": "saveDefinition", "input": { "definition": { "id": 7 } } },
            { "operation": "getUsers" },
            { "operation": "deleteRole", "input": { "roleId": "ann:cook" } },
            { "operation": "deleteRole", "input": { "roleId": "ann:cook" } },
            { "operation": "readApp", "input": { "host": "unnamed" } },
            { "operation": "nothing\u{1b}[31m" },
        ]),
    )
    .await;
    assert_eq!(
        codes(&found),
        [
            "done",
            "request.invalid_input",
            "done",
            "registry.no_such_instance",
            "request.invalid_input",
            "request.invalid_input",
            "access.permission_missing",
            "access.permission_missing",
            "done",
            "user.no_such_role",
            "done",
            "request.no_such_operation",
        ]
    );
    assert_eq!(found[0]["body"]["role"]["id"], "ann:cook");
    assert!(!found[11]["error"].as_str().unwrap().contains('\u{1b}'));
    let alone = daemon.call("POST", "/user-svc/app", "", json!({ "host": "unnamed" })).await;
    assert_eq!(found[10]["body"], alone.json());
    let alone = daemon.call("POST", "/user-svc/users", &ann, json!({})).await;
    assert_eq!(found[7]["error"], alone.json()["error"]);

    let nothing = batch(&daemon, &ann, json!({ "calls": [] })).await;
    let many = batch(&daemon, &ann, json!({ "calls": vec![json!({ "operation": "health" }); 21] })).await;
    assert_eq!((nothing.status.as_u16(), many.status.as_u16()), (400, 400), "{} {}", nothing.text, many.text);
    assert_eq!(batch(&daemon, "", json!({ "calls": [{ "operation": "health" }] })).await.status, 401);
}

#[tokio::test]
async fn a_batch_stops_at_the_first_failure_where_it_is_to() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    let call = |id: &str| json!({ "operation": "createRole", "input": { "id": id, "name": "" } });
    let calls = json!([call("ann:a"), call("bob:b"), call("ann:c")]);
    let stopped = batch(&daemon, &ann, json!({ "calls": calls, "stopOnError": true })).await.json();
    let stopped = stopped["answers"].as_array().unwrap();
    assert_eq!(codes(stopped), ["done", "user.foreign_prefix", "platform.call_skipped"]);
    assert_eq!(stopped[2]["status"], 424);
    let found = answers(
        &daemon,
        &ann,
        json!([
            { "operation": "getPermissionsByRole", "input": { "roleId": "ann:a" } },
            { "operation": "getPermissionsByRole", "input": { "roleId": "ann:c" } },
        ]),
    )
    .await;
    assert_eq!(codes(&found), ["done", "user.no_such_role"]);
}

/// Public operations that hash passwords or send mail, operations that answer with a token or with something other than
/// JSON, and the batch itself.
#[tokio::test]
async fn what_could_be_multiplied_or_stolen_by_a_batch_is_not_called_in_one() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let mut refused = BTreeSet::new();
    for row in openorch_api::operations() {
        let is_public_change = matches!(row.access, Access::Public) && row.effect() == Effect::Write;
        // The other public writes would be executed.
        let others = ["welcome", "health", "ready", "openapi", "docs", "backup", "metrics", "callOperations"];
        if row.returns_token() || is_public_change || others.contains(&row.id) {
            let found = answers(&daemon, &admin, json!([{ "operation": row.id }])).await;
            if found[0]["code"] == "platform.not_in_batch" {
                assert!(found[0]["error"].as_str().unwrap().contains(row.path), "{}", found[0]);
                refused.insert(row.id);
            }
        }
    }
    let want = [
        "register",
        "login",
        "sendOtp",
        "refreshToken",
        "exchangeToken",
        "saveOrganization",
        "docs",
        "backup",
        "metrics",
        "callOperations",
    ];
    assert_eq!(refused, BTreeSet::from(want));
}

#[tokio::test]
async fn a_batch_gives_no_rights_neither_to_its_caller_nor_to_a_service() {
    let daemon = Daemon::start().await;
    let (echo, service) = (Echo::start().await, daemon.register("echo-svc").await);
    assert_eq!(daemon.put_instance(&service, json!({ "url": echo.url })).await.status, 201);
    let admin = daemon.admin().await;
    let delegated = delegated_token(&daemon, "/echo-svc/x", &admin).await;
    let calls = json!([
        { "operation": "readUserByToken" },
        { "operation": "getUsers" },
        { "operation": "saveSelf", "input": { "name": "Eve" } },
        { "operation": "deleteUser", "input": { "userId": id_of(&admin) } },
    ]);
    assert_eq!(
        batch(&daemon, &delegated, json!({ "calls": calls })).await.status,
        403,
        "the operation is not delegated"
    );
    let open = |operations: &[&str]| json!({ "slug": "echo-svc", "operations": operations });
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, open(&["callOperations"])).await, 200);
    let found = answers(&daemon, &delegated, calls.clone()).await;
    let not_open = "access.not_delegated";
    assert_eq!(codes(&found), ["done", not_open, not_open, not_open], "only what each service may call anyway");
    assert_eq!(
        status(&daemon, "PUT", "/user-svc/delegation", &admin, open(&["callOperations", "getUsers"])).await,
        200
    );
    assert_eq!(codes(&answers(&daemon, &delegated, calls).await), ["done", "done", not_open, not_open]);
    echo.stop();
}

#[tokio::test]
async fn what_is_lost_within_a_batch_is_lost_for_the_calls_after() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let enrolls = json!({ "enrolls": [{ "userId": id_of(&ann), "role": "user-svc:admin" }] });
    let given = daemon.call("PUT", "/user-svc/enrolls", &admin, enrolls).await.json();
    let ann = token_of(&daemon.login("ann", "pass", "").await);
    let found = answers(
        &daemon,
        &ann,
        json!([
            { "operation": "listAudit", "input": { "limit": 1 } },
            { "operation": "deleteEnroll", "input": { "enrollId": given["enrolls"][0]["id"] } },
            { "operation": "listAudit", "input": { "limit": 1 } },
            { "operation": "updateApp", "input": { "newHost": "eve.example.com" } },
            { "operation": "revokeTokens" },
            { "operation": "readSelf" },
        ]),
    )
    .await;
    assert_eq!(
        codes(&found),
        ["done", "done", "access.permission_missing", "access.permission_missing", "done", "access.session_ended"]
    );
}

#[tokio::test]
async fn what_a_batch_changes_or_is_refused_is_in_the_audit_log_under_its_parent() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let calls = json!({ "calls": [
        { "operation": "saveSelf", "input": { "name": "Ann Batch" } },
        { "operation": "saveGrants", "input": { "grants": [{ "permissionId": "user-svc:user:view", "slugs": ["ann"] }] } },
    ] });
    let id = [("x-request-id", "the-batch")];
    let answer = daemon.send("POST", PATH, &ann, calls.to_string().into_bytes(), &id).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    daemon.call("PUT", "/user-svc/grants", &ann, json!({ "grants": [] })).await;
    let told = async |operation: &str| {
        let asked = json!({ "actor": "ann", "operation": operation });
        daemon.call("POST", "/user-svc/audit", &admin, asked).await.json()["entries"].as_array().unwrap().clone()
    };
    let both = async || told("saveGrants").await.len() == 2;
    daemon.until("both refusals are recorded separately", both).await;
    for operation in ["saveSelf", "saveGrants"] {
        let entries = told(operation).await;
        let nested = entries.iter().find(|entry| entry["parentOperation"] == "callOperations");
        let nested = nested.unwrap_or_else(|| panic!("{operation}: {entries:?}"));
        assert_eq!((&nested["requestId"], &nested["actorSlug"]), (&json!("the-batch"), &json!("ann")));
        assert_eq!(nested["clientIp"], "127.0.0.1");
    }
    let alone = told("saveGrants").await;
    assert!(alone.iter().any(|entry| entry["parentOperation"].is_null()), "{alone:?}");
    let metrics = daemon.call("GET", "/metrics", &admin, Value::Null).await.text;
    let line = metrics.lines().find(|line| line.contains("calls_in_process_total") && line.contains("\"saveSelf\""));
    assert!(line.is_some_and(|line| line.contains("via=\"callOperations\"") && line.ends_with(" 1")), "{line:?}");
}

#[tokio::test]
async fn each_call_of_a_batch_counts_as_one_that_writes() {
    let daemon = Daemon::with_flags(&["--api-max-writes-per-account", "1", "--api-max-writes-burst", "6"]).await;
    let eve = daemon.register("eve").await;
    let mut calls = vec![json!({ "operation": "readSelf" }); 8];
    // Public operations count too.
    calls[1] = json!({ "operation": "health" });
    calls[2] = json!({ "operation": "saveSelf", "input": { "name": "Eve" } });
    let found = answers(&daemon, &eve, json!(calls)).await;
    let (done, refused) = found.split_at(5);
    assert!(done.iter().all(|answer| answer["status"] == 200), "{found:?}");
    assert!(refused.iter().all(|answer| answer["code"] == "access.too_many_writes"), "{refused:?}");
    assert!(refused[0]["retryAfter"].as_u64().is_some_and(|seconds| seconds > 0), "{}", refused[0]);
    assert_eq!(batch(&daemon, &eve, json!({ "calls": [{ "operation": "readSelf" }] })).await.status, 429);
}

#[tokio::test]
async fn the_answers_of_a_batch_have_a_bound_together_and_what_was_written_is_answered() {
    let daemon = Daemon::with_flags(&["--api-max-batch-answer-bytes", "2KiB"]).await;
    let admin = daemon.admin().await;
    let found = answers(
        &daemon,
        &admin,
        json!([
            { "operation": "health" },
            { "operation": "openapi" },
            { "operation": "createRole", "input": { "id": "openorch:a", "name": "", "description": "d".repeat(1000) } },
            { "operation": "createRole", "input": { "id": "openorch:b", "name": "", "description": "d".repeat(1000) } },
            { "operation": "createRole", "input": { "id": "openorch:c", "name": "", "description": "d".repeat(1000) } },
            { "operation": "health" },
        ]),
    )
    .await;
    let too_large = "platform.answer_too_large";
    assert_eq!(codes(&found), ["done", too_large, "done", "done", "done", too_large]);
    assert_eq!(found[4]["body"]["role"]["description"].as_str().unwrap().len(), 1000);
}

#[tokio::test]
async fn the_calls_of_a_batch_have_a_time_together_and_what_writes_goes_on() {
    let daemon = Daemon::with_flags(&["--api-batch-timeout", "1ms"]).await;
    let admin = daemon.admin().await;
    let user = json!({ "user": { "slug": "bob", "name": "Bob" }, "password": "a-long-password" });
    let calls = json!([{ "operation": "createUser", "input": user }, { "operation": "health" }]);
    let timed_out = "platform.call_timed_out";
    assert_eq!(codes(&answers(&daemon, &admin, calls).await), [timed_out, timed_out]);
    let made = async || daemon.login("bob", "a-long-password", "").await.status == 200;
    daemon.until("the account is created nevertheless", made).await;
}
