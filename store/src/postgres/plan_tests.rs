//! What PostgreSQL says it will do for a query, with the plan that serves all values of a statement alike: it seeks where
//! an index is declared, and sorts nothing that an index has in order.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::sessions::settings;
use super::target::{CONNECT_LIMIT, Target};
use super::{PostgresOptions, PostgresStore};
use crate::sql::{Bind, CountPlan, Dialect, Plan, Spec};
use crate::{Batch, Collection, Cursor, Filter, Index, Query, Store};

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

/// A schema with enough documents that a scan would cost more than an index.
struct Bench {
    client: Client,
    store: Arc<dyn Store>,
    spec: Arc<Spec>,
    schema: String,
}

impl Bench {
    /// None where there is no PostgreSQL to test with; the tests in `tests/it` say so aloud.
    async fn new() -> Option<Self> {
        let connection = std::env::var("OPENORCH_TEST_DB_STRING").ok()?;
        let schema = format!("test_plans_{}", std::process::id());
        let options = PostgresOptions { schema: schema.clone(), ..PostgresOptions::new(&*connection) };
        let store = PostgresStore::open(options).await.unwrap();
        store.open_collections(&[COLLECTION]).await.unwrap();
        for part in 0..8 {
            let documents = (part * 1000..(part + 1) * 1000).map(|i| (format!("d{i:05}"), document(i)));
            let batch = documents.fold(Batch::new(), |batch, (id, body)| batch.create("plans", id, body.to_string()));
            store.commit(batch).await.unwrap();
        }
        let (client, _) = Target::parse(&connection).unwrap().connect(CONNECT_LIMIT).await.unwrap();
        client.batch_execute(&settings(&schema)).await.unwrap();
        client.batch_execute("ANALYZE; SET plan_cache_mode = force_generic_plan").await.unwrap();
        Some(Self { client, store, spec: Arc::new(Spec::new(&COLLECTION).unwrap()), schema })
    }

    /// The plan of a statement that takes any values, put to these.
    async fn explain(&self, sql: &str, values: &[Bind]) -> String {
        let given: Vec<String> = values.iter().map(literal).collect();
        let given = if given.is_empty() { String::new() } else { format!("({})", given.join(", ")) };
        self.client.batch_execute(&format!("DEALLOCATE ALL; PREPARE q AS {sql}")).await.unwrap();
        let lines = self.client.simple_query(&format!("EXPLAIN (COSTS OFF) EXECUTE q{given}")).await.unwrap();
        let line = |message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        lines.into_iter().filter_map(line).collect::<Vec<_>>().join("\n")
    }

    async fn end(self) {
        self.store.close().await;
        self.client.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.schema)).await.unwrap();
    }
}

fn document(i: usize) -> Value {
    json!({
        "owner": format!("o{}", i % 200), "at": i / 10, "name": format!("Name {i}"), "place": {"city": format!("c{}", i % 500)},
        "slug": format!("s{i}"), "kind": format!("k{}", i % 3), "readers": [format!("r{}", i % 50), "all"],
        "tags": [format!("t{}", i % 400)], "more": "x".repeat(300),
    })
}

fn literal(bind: &Bind) -> String {
    let key = |key: &[u8]| Dialect::Postgres.literal(key);
    let text = |text: &str| format!("'{text}'");
    match bind {
        Bind::Key(bytes) => key(bytes),
        Bind::Text(id) => text(id),
        Bind::Integer(number) => number.to_string(),
        Bind::Keys(keys) => {
            format!("ARRAY[{}]::bytea[]", keys.iter().map(|one| key(one)).collect::<Vec<_>>().join(","))
        }
        Bind::Texts(ids) => format!("ARRAY[{}]::text[]", ids.iter().map(|id| text(id)).collect::<Vec<_>>().join(",")),
    }
}

/// Queries, and what each plan must name.
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
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_fields_are_sought_and_their_order_needs_no_sorting() {
    let Some(bench) = Bench::new().await else { return };
    let mut wrong = Vec::new();
    for (query, index) in shapes() {
        let plan = Plan::new(Dialect::Postgres, bench.spec.clone(), &query).unwrap();
        let shown = bench.explain(&plan.sql, plan.values()).await;
        let is_list = index.starts_with("s_");
        // What lists give is at most a page of each element, and is merged.
        let sorts = shown.contains("Sort") && !is_list && !query.order.is_empty();
        if shown.contains("Seq Scan") || !shown.contains(index) || sorts {
            wrong.push(format!("{query:?}\n{}\n{shown}\n", plan.sql));
        }
    }
    for filters in [vec![Filter::equals("owner", "o1")], vec![Filter::intersects("tags", ["t1"])]] {
        let plan = CountPlan::new(Dialect::Postgres, bench.spec.clone(), &filters, u64::MAX).unwrap();
        let shown = bench.explain(&plan.sql, plan.values()).await;
        if shown.contains("Seq Scan") {
            wrong.push(format!("{filters:?}\n{shown}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Without the index it scans: what is looked for above can be seen.
    bench.client.batch_execute("DROP INDEX \"ix plans(place.city)\"").await.unwrap();
    let plan = Plan::new(Dialect::Postgres, bench.spec.clone(), &Query::all().equals("place.city", "x")).unwrap();
    assert!(bench.explain(&plan.sql, plan.values()).await.contains("Seq Scan"));
    bench.end().await;
}
