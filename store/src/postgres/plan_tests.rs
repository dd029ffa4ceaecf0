//! Generic query plans of PostgreSQL: they seek if there is an index, and do not sort what an index has in order.

use serde_json::{Value, json};

use super::PostgresExplainer;
use crate::{Collection, Cursor, Filter, Index, Query};

const COLLECTION: Collection = Collection {
    name: "plans",
    indexes: &[
        Index::on(&["owner", "at"]),
        Index::on(&["at"]),
        Index::on(&["lower(name)"]),
        Index::on(&["place.city"]),
        Index::unique(&["slug"]),
        Index::each("readers", &["kind", "at"]),
        Index::each("tags", &[]),
    ],
};

fn document(i: usize) -> Value {
    json!({
        "owner": format!("o{}", i % 200), "at": i / 10, "name": format!("Name {i}"), "place": {"city": format!("c{}", i % 500)},
        "slug": format!("s{i}"), "kind": format!("k{}", i % 3), "readers": [format!("r{}", i % 50), "all"],
        "tags": [format!("t{}", i % 400)], "more": "x".repeat(300),
    })
}

/// Queries, and the index that each plan must name.
fn shapes() -> Vec<(Query, &'static str)> {
    let after = |values: Vec<Value>| Cursor { values, id: Some("d00100".into()) };
    let owner = || Query::all().equals("owner", "o1");
    let listed = |values: &[&str]| Query::all().intersects("readers", values.iter().copied());
    vec![
        (Query::all().equals("id", "x"), "c_plans_pkey"),
        (Query::all().is_in("id", ["x", "y"]), "c_plans_pkey"),
        (Query::all().after(after(vec![])).limit(5), "c_plans_pkey"),
        (Query::all().limit(5), "c_plans_pkey"),
        (Query::all().descending("id").limit(5), "c_plans_pkey"),
        (owner(), "ix plans(owner,at)"),
        (owner().ascending("at"), "ix plans(owner,at)"),
        (owner().descending("at").limit(50), "ix plans(owner,at)"),
        (owner().equals("at", 1), "ix plans(owner,at)"),
        (owner().ascending("at").after(after(vec![json!(1)])).limit(5), "ix plans(owner,at)"),
        (owner().descending("at").after(after(vec![json!(1)])).limit(5), "ix plans(owner,at)"),
        (owner().equals("undeclared", 1).ascending("at").limit(3), "ix plans(owner,at)"),
        (owner().filter(Filter::range("at", Some(json!(1)), Some(json!(5)))).ascending("at"), "ix plans(owner,at)"),
        (Query::all().ascending("at").limit(5), "ix plans(at)"),
        (Query::all().descending("at").limit(5), "ix plans(at)"),
        (Query::all().ascending("at").after(after(vec![json!(1)])).limit(5), "ix plans(at)"),
        (Query::all().descending("at").after(after(vec![json!(null)])).limit(9), "ix plans(at)"),
        (Query::all().filter(Filter::range("at", Some(json!(1)), Some(json!(5)))), "ix plans(at)"),
        (Query::all().starts_with("name", "Name 1"), "ix plans(lower(name))"),
        (Query::all().equals("place.city", "x"), "ix plans(place.city)"),
        (Query::all().is_in("place.city", ["x", "y", "z"]), "ix plans(place.city)"),
        (Query::all().equals("slug", "x"), "ux plans(slug)"),
        (
            Query::all().filter(Filter::Any(vec![Filter::equals("slug", "x"), Filter::equals("place.city", "y")])),
            "ux plans(slug)",
        ),
        (Query::all().intersects("tags", ["t1", "t2"]), "s_plans(tags/)_pkey"),
        (Query::all().intersects("tags", ["t1", "t2"]).limit(5), "s_plans(tags/)_pkey"),
        (listed(&["r1", "all"]).equals("kind", "k1").descending("at").limit(5), "s_plans(readers/kind,at)_pkey"),
        (
            listed(&["r1"]).equals("kind", "k1").ascending("at").after(after(vec![json!(3)])).limit(5),
            "s_plans(readers/kind,at)_pkey",
        ),
        (owner().intersects("readers", ["r1", "r2"]).ascending("at").limit(5), "ix plans(owner,at)"),
        (
            listed(&["all"]).equals("kind", "k1").equals("undeclared", 1).descending("at").limit(5),
            "s_plans(readers/kind,at)_pkey",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_fields_are_sought_and_their_order_needs_no_sorting() {
    let documents: Vec<_> = (0..8000).map(|i| (format!("d{i:05}"), document(i).to_string())).collect();
    let Some(bench) = PostgresExplainer::new("plans", COLLECTION, &documents).await else { return };
    let mut wrong = Vec::new();
    for (query, index) in shapes() {
        let shown = bench.explain(&query).await;
        // List queries merge at most a page of each element, which needs a sort, or walk one element in order.
        let is_merged = shown.contains("unnest");
        let sorts = shown.contains("Sort") && !is_merged && !query.order.is_empty();
        if shown.contains("Seq Scan") || !shown.contains(index) || sorts {
            wrong.push(format!("{query:?}\n{shown}\n"));
        }
    }
    for filters in [vec![Filter::equals("owner", "o1")], vec![Filter::intersects("tags", ["t1"])]] {
        let shown = bench.explain_count(&filters).await;
        if shown.contains("Seq Scan") {
            wrong.push(format!("{filters:?}\n{shown}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Without the index it scans, which proves that the test can fail.
    bench.drop_index("ix plans(place.city)").await;
    assert!(bench.explain(&Query::all().equals("place.city", "x")).await.contains("Seq Scan"));
    bench.drop_schema().await;
}
