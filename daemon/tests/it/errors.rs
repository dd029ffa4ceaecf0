//! Error codes: each is declared once, used, and described in `docs/errors.md`. `openorch_test_support::answer` checks
//! on every response that its code is declared.

use std::{collections::HashSet, fmt::Write, fs, path::Path};

use openorch_api::{
    ErrorCode, Operation,
    error::{access, gateway, platform, repeat, request},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::Daemon;

#[test]
fn every_code_is_declared_once_with_a_valid_status_and_is_in_use() {
    let mut seen = HashSet::new();
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    for code in openorch_api::errors() {
        assert!(seen.insert(code.id), "{} is declared twice", code.id);
        assert!(code.id.split_once('.').is_some_and(|(area, name)| is_word(area) && is_word(name)), "{}", code.id);
        let status = StatusCode::from_u16(code.status).unwrap();
        assert!(status.is_client_error() || status.is_server_error(), "{}", code.id);
        assert!(!code.cause.is_empty() && !code.remedy.is_empty() && !code.cause.ends_with('.'), "{}", code.id);
    }
    for service in openorch_api::SERVICES {
        for code in service.errors {
            let declares = |row: &Operation| {
                row.errors.contains(code) || row.condition.is_some_and(|condition| condition.error == *code)
            };
            let is_used = service.operations.iter().any(|row| declares(row));
            assert!(is_used, "no operation of {} declares {}", service.slug, code.id);
        }
    }
}

#[tokio::test]
async fn paths_that_name_no_operation_are_refused_by_codes_too() {
    let daemon = Daemon::start().await;
    for (method, path, code) in [
        ("GET", "/user-svc/nothing", "request.no_such_operation"),
        ("PUT", "/health", "request.method_not_allowed"),
        ("GET", "/user-svc/a%00b", "request.invalid_url"),
        ("GET", "/no-such-svc/x", "gateway.no_such_service"),
        ("GET", "/registry-svc/instances", "access.no_token"),
    ] {
        let answer = daemon.call(method, path, "", Value::Null).await;
        assert_eq!(answer.json()["code"], code, "{path}");
    }
    let answer = daemon.call("POST", "/user-svc/login", "", json!({ "slug": "nobody", "password": "x" })).await;
    assert_eq!(answer.text, r#"{"error": "Slug not found", "code": "user.slug_not_found"}"#);
}

#[test]
fn the_list_of_errors_is_the_golden_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let text = list_of_errors();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "docs/errors.md differs from the table: run UPDATE=1 cargo test and review the difference");
}

fn list_of_errors() -> String {
    let mut text = String::from(
        "# Errors\n\nA refusal is `{\"error\": \"sentence\", \"code\": \"area.name\"}`. The sentence is for people and names the \
         thing; it may be reworded.\nThe code is for programs; it and its HTTP status are stable. `/openapi.json` lists the \
         codes of each operation\n(`x-codes` of its responses) and all codes (`x-errors`). Services behind the gateway \
         have their own errors.\n\nMalformed HTTP requests are refused without a body.\n\nThis file is generated from the \
         table of operations; `UPDATE=1 cargo test -p openorch --test it -- golden` writes it.\n",
    );
    for (title, codes) in [
        ("Requests", request::ERRORS),
        ("Callers", access::ERRORS),
        ("Repeats, known by the header `Idempotency-Key`", repeat::ERRORS),
        ("State of the daemon: any operation may answer these", platform::ERRORS),
        ("Gateway", gateway::ERRORS),
    ] {
        section(&mut text, title, codes);
    }
    for service in openorch_api::SERVICES {
        section(&mut text, service.name, service.errors);
    }
    text
}

fn section(text: &mut String, title: &str, codes: &[&ErrorCode]) {
    write!(text, "\n## {title}\n\n| Code | Status | Cause | Remedy |\n| --- | --- | --- | --- |\n").unwrap();
    for ErrorCode { id, status, cause, remedy } in codes {
        writeln!(text, "| `{id}` | {status} | {} | {} |", sentence(cause), sentence(remedy)).unwrap();
    }
}

fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str()).replace('|', "\\|")
}
