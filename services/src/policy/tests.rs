//! Cases that cannot be provoked from outside: commits of unknown outcome.

use std::sync::atomic::Ordering;

use openorch_store::{SqliteOptions, SqliteStore};

use super::*;
use crate::{indeterminate_store::IndeterminateStore, test_platform};

#[tokio::test]
async fn a_policy_whose_commit_has_an_unknown_outcome_is_applied_once_it_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = IndeterminateStore::wrap(SqliteStore::open(directory.path(), SqliteOptions::default()).unwrap());
    let (clock, letters) = (test_platform::clock(), Arc::default());
    let platform = test_platform::platform(store.clone(), MODULE.collections, clock, letters, &[]).await;
    let policies = open(&platform).await.unwrap();
    let list = ["192.0.2.0/24".to_owned()].to_vec();
    let parameters =
        api::PolicyParameters { blocklist: Some(api::Blocklist { blocked_ips: list }), ..Default::default() };
    let instance = PolicyInstance { id: "a".into(), template_id: "blocklist".into(), parameters, ..Default::default() };
    let row = PolicyRow { app: "unnamed".into(), instance };
    store.delay_next_commit.store(true, Ordering::SeqCst);
    assert!(policies.commit(&CallAudit::NONE, policies.table.create("unnamed a", &row).unwrap().into()).await.is_err());
    reconcile(policies.clone()).await;
    assert!(policies.rules.load().is_empty());
    store.apply_delayed().await;
    reconcile(policies.clone()).await;
    assert_eq!(policies.rules.load().len(), 1);
}
