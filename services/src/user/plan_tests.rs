//! Pages of accounts and of the audit log use an index on both engines, so that their cost does not grow with the
//! number of rows.

use openorch_api::user::{GetUsersRequest, ListAuditRequest};
use openorch_chassis::audit::ENTRIES;
use openorch_store::{
    Collection, Cursor, Index, Query,
    explain::{PostgresExplainer, explain_on_sqlite},
};
use serde_json::{Value, json};

use super::{
    audit,
    directory::users::account_query,
    shared::rows::{USERS, search_prefixes},
};

const BY_SEARCH: &str = "s_userSvcUsers(searchPrefixes/createdAt)";
const BY_AGE: &str = "ix userSvcUsers(createdAt)";

fn user_query(body: Value) -> Query {
    account_query(&serde_json::from_value::<GetUsersRequest>(body).unwrap(), None, None).unwrap()
}

/// Queries of admins, and the index that must be used: a secondary index or the primary key.
fn account_queries() -> Vec<(Query, &'static str)> {
    let further = |query: Query| {
        let after = Cursor { values: vec![json!("2026-01-01T00:00:01.000000Z")], id: Some("usr_1".into()) };
        query.after(after)
    };
    let by_contact: GetUsersRequest = serde_json::from_value(json!({ "contactId": "a@b.c" })).unwrap();
    let by_search: GetUsersRequest = serde_json::from_value(json!({ "search": "a@b.c" })).unwrap();
    let owner = || Some("usr_1".to_owned());
    vec![
        // One letter, which half of all accounts match; a whole name; words longer than the indexed prefix; several
        // words.
        (user_query(json!({ "search": "a" })), BY_SEARCH),
        (user_query(json!({ "search": "a", "order": "asc", "limit": 1000 })), BY_SEARCH),
        (further(user_query(json!({ "search": "a" }))), BY_SEARCH),
        (user_query(json!({ "search": "Ann 17" })), BY_SEARCH),
        (user_query(json!({ "search": "nobody-is-called-so" })), BY_SEARCH),
        (user_query(json!({})), BY_AGE),
        (further(user_query(json!({ "query": { "limit": 50 } }))), BY_AGE),
        (user_query(json!({ "orderBy": "updatedAt" })), "ix userSvcUsers(updatedAt)"),
        (user_query(json!({ "ids": ["usr_1", "usr_2"] })), "key"),
        (account_query(&by_contact, owner(), None).unwrap(), "key"),
        (account_query(&by_search, None, owner()).unwrap(), "key"),
    ]
}

/// The collection without its search index.
fn without_search_index() -> Collection {
    let others: Vec<Index> =
        USERS.indexes.iter().filter(|index| !format!("{index:?}").contains("searchPrefixes")).copied().collect();
    Collection { indexes: Vec::leak(others), ..USERS }
}

#[test]
fn sqlite_answers_pages_of_accounts_from_an_index() {
    for (query, index) in account_queries() {
        let shown = explain_on_sqlite(&USERS, &query).unwrap();
        let index = if index == "key" { "(id=?)" } else { index };
        // SQLite calls it a scan to walk an index in order without a filter.
        let scans = shown.contains("SCAN") && !shown.contains(&format!("USING INDEX {index}"));
        let sorts = shown.contains("TEMP B-TREE") && index != "(id=?)";
        assert!(shown.contains(index) && !scans && !sorts, "{query:?}: {shown}");
    }
    let shown = explain_on_sqlite(&without_search_index(), &user_query(json!({ "search": "a" }))).unwrap();
    assert!(!shown.contains("SEARCH"), "the check would detect a missing index: {shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_answers_pages_of_accounts_from_an_index() {
    let account = |n: usize| {
        let (slug, name) = (format!("account-{n}"), format!("{} {n}", ["Ann", "Bob", "Cleo", "Dan"][n % 4]));
        let at = format!("2026-01-01T00:{:02}:{:02}.000000Z", n / 60 % 60, n % 60);
        let body = json!({ "id": format!("usr_{n}"), "slug": slug, "name": name, "createdAt": at, "updatedAt": at,
            "searchPrefixes": search_prefixes(&slug, &name), "contacts": [], "labels": { "note": "x".repeat(300) } });
        (format!("usr_{n}"), body.to_string())
    };
    let accounts: Vec<_> = (0..5000).map(account).collect();
    let Some(bench) = PostgresExplainer::new("accounts", USERS, &accounts).await else { return };
    for (query, index) in account_queries() {
        let shown = bench.explain(&query).await;
        let index = if index == "key" { "c_userSvcUsers_pkey" } else { index };
        let sorts = shown.contains("Sort") && !index.ends_with("_pkey");
        assert!(shown.contains(index) && !shown.contains("Seq Scan") && !sorts, "{query:?}: {shown}");
    }
    bench.drop_schema().await;
    let Some(bench) = PostgresExplainer::new("unsearchable", without_search_index(), &accounts).await else { return };
    let shown = bench.explain(&user_query(json!({ "search": "a" }))).await;
    assert!(!shown.contains(BY_SEARCH), "the check would detect a missing index: {shown}");
    bench.drop_schema().await;
}

/// Queries of the audit log, and the index that must provide their order.
fn audit_queries() -> Vec<(Query, &'static str)> {
    let by = |body: Value, is_id: bool, way: usize| {
        audit::queries(serde_json::from_value::<ListAuditRequest>(body).unwrap(), is_id).unwrap().swap_remove(way)
    };
    let asked = |body: Value, is_id: bool| by(body, is_id, 0);
    vec![
        (asked(json!({}), false), "ix userSvcAuditEntries(at)"),
        (asked(json!({ "from": "2026-01-01T00:00:00Z" }), false), "ix userSvcAuditEntries(at)"),
        (asked(json!({ "outcome": "refused" }), false), "ix userSvcAuditEntries(outcome"),
        (asked(json!({ "outcome": "done", "limit": 1000 }), false), "ix userSvcAuditEntries(outcome"),
        (asked(json!({ "operation": "login" }), false), "ix userSvcAuditEntries(operation"),
        (asked(json!({ "target": "a" }), false), "s_userSvcAuditEntries(targets/at)"),
        (by(json!({ "target": "a" }), false, 1), "ix userSvcAuditEntries(target"),
        (asked(json!({ "actor": "usr_1" }), true), "ix userSvcAuditEntries(actorId"),
        (asked(json!({ "actor": "a" }), false), "ix userSvcAuditEntries(actorSlug"),
    ]
}

#[test]
fn sqlite_answers_pages_of_the_audit_log_from_an_index() {
    for (query, index) in audit_queries() {
        // The scans of subqueries read only rows found by the index, no more than a page.
        let shown =
            explain_on_sqlite(&ENTRIES, &query).unwrap().replace("SCAN (subquery-1)", "").replace("SCAN t;", "");
        let scans = shown.contains("SCAN") && !shown.contains(&format!("USING INDEX {index}"));
        assert!(shown.contains(index) && !scans && !shown.contains("TEMP B-TREE"), "{query:?}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_answers_pages_of_the_audit_log_from_an_index() {
    let entry = |n: usize| {
        let body = json!({ "id": format!("aud_{n}"), "at": format!("2026-01-01T{:02}:{:02}:00.000000Z", n / 60 % 24, n % 60),
            "actorId": format!("usr_{}", n % 50), "actorSlug": format!("a-{}", n % 50), "operation": format!("o{}", n % 40),
            "target": format!("t{n}"), "outcome": if n.is_multiple_of(50) { "refused" } else { "done" }, "note": "x".repeat(300) });
        (format!("aud_{n}"), body.to_string())
    };
    let entries: Vec<_> = (0..5000).map(entry).collect();
    let Some(bench) = PostgresExplainer::new("audit", ENTRIES, &entries).await else { return };
    for (query, index) in audit_queries().into_iter().take(4) {
        let shown = bench.explain(&query).await;
        assert!(shown.contains(index) && !shown.contains("Seq Scan"), "{query:?}: {shown}");
    }
    bench.drop_schema().await;
}
