//! Tests of the handling of `Authorization` (decision "Delegated tokens").

use crate::support::*;

async fn send_with(platform: &Platform, lines: &str) -> Answer {
    platform.ask(&format!("GET /demo HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await
}

#[tokio::test]
async fn a_service_never_receives_the_callers_token() {
    let platform = Platform::in_front_of(echo_server().await).await;
    for token in ["Bearer ours", "ours", "Bearer ours-slowly"] {
        let answer = send_with(&platform, &format!("Authorization: {token}\r\n")).await;
        let got = header(&answer.body, "authorization");
        assert_eq!(got.as_deref(), Some("Bearer delegated-for-demo"), "{token}");
    }
}

#[tokio::test]
async fn a_token_of_somebody_else_passes_untouched() {
    let platform = Platform::in_front_of(echo_server().await).await;
    for token in ["Bearer foreign", "Basic YTpi", "foreign", "Bearer  spaced  out"] {
        let answer = send_with(&platform, &format!("Authorization: {token}\r\n")).await;
        assert_eq!(header(&answer.body, "authorization").as_deref(), Some(token));
    }
    assert_eq!(header(&send_with(&platform, "").await.body, "authorization"), None);
}

#[tokio::test]
async fn a_token_of_ours_that_is_not_good_here_is_refused_at_the_gateway() {
    let platform = Platform::in_front_of(echo_server().await).await;
    for (token, status) in [("revoked", 401), ("for-another", 403), ("unknowable", 503)] {
        let answer = send_with(&platform, &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(answer.status, status, "{token}");
        assert!(answer.body.starts_with("{\"error\": \""), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_token_cannot_hide_behind_another() {
    let platform = Platform::in_front_of(echo_server().await).await;
    for (lines, status) in [
        ("Authorization: Bearer foreign\r\nAuthorization: Bearer ours\r\n", 400),
        ("Authorization: Bearer ours\r\nAuthorization: Bearer foreign\r\n", 400),
        ("Authorization: Bearer foreign\r\nAuthorization: Bearer revoked\r\n", 400),
        ("Authorization: Bearer foreign\r\nAuthorization: Basic abc\r\n", 200),
        ("Authorization: Bearer eyJhbGciOiJ\u{e9}\r\n", 400),
        ("Authorization: Basic caf\u{e9}\r\n", 200),
    ] {
        assert_eq!(send_with(&platform, lines).await.status, status, "{lines}");
    }
}
