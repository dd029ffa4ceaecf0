//! Starts a daemon for the tests that need one, and tests of this helper.

use openorch_sdk::{
    Error,
    api::{
        Body,
        registry::{LIST_NODES, ListNodesRequest},
        user::{READ_USER_BY_TOKEN, REVOKE_TOKENS, RevokeTokensRequest},
    },
    testing::TestDaemon,
};
use openorch_test_support::process::daemon_binary;

/// Starts a daemon; builds its program if it is missing.
pub async fn start(variables: &[(&str, &str)]) -> TestDaemon {
    daemon_binary();
    TestDaemon::start_with(variables).await.unwrap()
}

#[tokio::test]
async fn a_test_has_a_daemon_an_admin_and_accounts_in_a_line_each() {
    let daemon = start(&[]).await;
    let nodes = daemon.admin().await.unwrap().call(LIST_NODES, Body(ListNodesRequest::default())).await.unwrap();
    assert_eq!(nodes.0.nodes.len(), 1);
    let joe = daemon.register("joe").await.unwrap();
    assert_eq!(joe.call(READ_USER_BY_TOKEN, ()).await.unwrap().0.user.slug, "joe");
}

#[tokio::test]
async fn a_daemon_that_was_killed_comes_back_where_it_was_with_what_it_kept() {
    let mut daemon = start(&[("OPENORCH_ADMIN_PASSWORD", "another-password")]).await;
    let (joe, url) = (daemon.register("joe").await.unwrap(), daemon.url().to_owned());
    daemon.kill();
    assert!(joe.request(openorch_sdk::http::Method::GET, "/health", None).await.is_err());
    daemon.resume().await.unwrap();
    assert_eq!(daemon.url(), url);
    assert_eq!(joe.call(READ_USER_BY_TOKEN, ()).await.unwrap().0.user.slug, "joe");
    daemon.admin_token().await.unwrap();
    let directory = daemon.data_dir().to_owned();
    drop(daemon);
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_daemon_that_does_not_start_says_why() {
    start(&[]).await;
    let error = TestDaemon::start_with(&[("OPENORCH_REGISTRY_PROBE_INTERVAL", "soon")]).await.unwrap_err().to_string();
    assert!(error.contains("cannot start the test daemon: it exited: ") && error.contains("PROBE_INTERVAL"), "{error}");
}

#[tokio::test]
async fn a_token_that_ended_is_refused_in_the_daemons_words_and_the_operation_is_named() {
    let daemon = start(&[]).await;
    let joe = daemon.register("joe").await.unwrap();
    joe.call(REVOKE_TOKENS, Body(RevokeTokensRequest::default())).await.unwrap();
    let error = joe.call(READ_USER_BY_TOKEN, ()).await.unwrap_err();
    let Error::Refused { operation, status, message, request_id, .. } = &error else { panic!("{error:?}") };
    assert_eq!((operation.as_ref(), *status), ("readUserByToken", 401));
    assert!(!message.is_empty() && request_id.is_some(), "{error:?}");
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn a_daemon_that_was_ended_is_unreachable_until_it_is_back() {
    let mut daemon = start(&[]).await;
    let joe = daemon.register("joe").await.unwrap();
    daemon.kill();
    let error = joe.call(READ_USER_BY_TOKEN, ()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { was_sent: false, .. }) && error.is_temporary(), "{error:?}");
    assert!(error.to_string().starts_with(&format!("readUserByToken: no response from {}: ", daemon.url())), "{error}");
    daemon.resume().await.unwrap();
    joe.call(READ_USER_BY_TOKEN, ()).await.unwrap();
}
