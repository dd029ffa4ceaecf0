//! Generic query plans of PostgreSQL, which do not depend on bound values.

use std::sync::Arc;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::{
    PostgresOptions, PostgresStore,
    connection_string::{CONNECT_TIMEOUT, ConnectOptions},
    pool::session_settings,
};
use crate::{
    Batch, Collection, Filter, Query, Store,
    sql::{Bind, CountPlan, Dialect, Plan, Spec},
};

/// A schema with a collection that is large enough for an index to be cheaper than a scan.
pub struct PostgresExplainer {
    client: Client,
    store: Arc<dyn Store>,
    spec: Arc<Spec<'static>>,
    schema: String,
}

impl PostgresExplainer {
    /// `None` if there is no PostgreSQL to test with: `tools/postgres` starts one.
    pub async fn new(name: &str, collection: Collection, documents: &[(String, String)]) -> Option<Self> {
        let connection = std::env::var("OPENORCH_TEST_DB_STRING").ok()?;
        let schema = format!("test_{name}_{}", std::process::id());
        let options = PostgresOptions { schema: schema.clone(), ..PostgresOptions::new(&*connection) };
        let store = PostgresStore::open(options).await.unwrap();
        store.open_collections(&[collection]).await.unwrap();
        for part in documents.chunks(1000) {
            let create = |batch: Batch, (id, body): &(String, String)| batch.create(collection.name, &**id, &**body);
            store.commit(part.iter().fold(Batch::new(), create)).await.unwrap();
        }
        let (client, _) = ConnectOptions::parse(&connection).unwrap().connect(CONNECT_TIMEOUT).await.unwrap();
        client.batch_execute(&session_settings(&schema)).await.unwrap();
        client.batch_execute("ANALYZE; SET plan_cache_mode = force_generic_plan").await.unwrap();
        Some(Self { client, store, spec: Arc::new(Spec::new(&collection).unwrap()), schema })
    }

    /// The SQL of a query and its plan.
    pub async fn explain(&self, query: &Query) -> String {
        let plan = Plan::new(Dialect::Postgres, self.spec.clone(), query).unwrap();
        format!("{}\n{}", plan.sql, self.plan_of(&plan.sql, plan.values()).await)
    }

    /// The SQL and plan of a count.
    pub async fn explain_count(&self, filters: &[Filter]) -> String {
        let plan = CountPlan::new(Dialect::Postgres, self.spec.clone(), filters, u64::MAX).unwrap();
        format!("{}\n{}", plan.sql, self.plan_of(&plan.sql, plan.values()).await)
    }

    async fn plan_of(&self, sql: &str, values: &[Bind]) -> String {
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

    /// Drops an index.
    pub async fn drop_index(&self, name: &str) {
        self.client.batch_execute(&format!("DROP INDEX \"{name}\"")).await.unwrap();
    }

    /// Drops the schema.
    pub async fn drop_schema(self) {
        self.store.close().await;
        self.client.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.schema)).await.unwrap();
    }
}

fn literal(bind: &Bind) -> String {
    let key = |key: &[u8]| Dialect::Postgres.bytes_literal(key);
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
