//! The engine for PostgreSQL against pgbench, the server's own load generator, with the same statements on the same
//! tables. Needs OPENORCH_TEST_DB_STRING, which `./run` brings.

use std::{io::Write, process::Command, sync::Arc};

use openorch_store::{PostgresOptions, PostgresStore, Store};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use crate::{
    data::{DOCS, batch, fill, id, runtime},
    measure::{Cost, Hold, Numbers, Table, cost, medians},
};

const SCHEMA: &str = "openorch_bench";
const DOCUMENTS: usize = 20_000;
const GETS: usize = 12_000;
const INSERTS: usize = 32_000;
const CLIENTS: usize = 32;
/// Seconds of each run of pgbench.
const SECONDS: &str = "2";

pub fn run(table: &mut Table) {
    let Ok(connection) = std::env::var("OPENORCH_TEST_DB_STRING") else {
        eprintln!("SKIP PostgreSQL: OPENORCH_TEST_DB_STRING names none");
        return;
    };
    let runtime = runtime();
    let mut options = PostgresOptions::new(&connection);
    options.schema = SCHEMA.into();
    let store = runtime.block_on(PostgresStore::open(options)).unwrap();
    fill(&runtime, &store, 0, DOCUMENTS);
    gets(&runtime, &store, &connection, table);
    inserts(&runtime, &store, &connection, table);
    runtime.block_on(store.close());
}

/// Transactions a second of a script by so many clients.
fn pgbench(connection: &str, clients: usize, script: &str) -> f64 {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(script.as_bytes()).unwrap();
    let output = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-j", "1", "-T", SECONDS, "-c", &clients.to_string(), "-f"])
        .args([file.path().as_os_str(), connection.as_ref()])
        .env("PGOPTIONS", format!("-c search_path={SCHEMA}"))
        .output()
        .expect("pgbench comes with PostgreSQL");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("tps = "));
    let line = line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// What `work` costs when so many tasks share it.
fn shared<F>(runtime: &Runtime, tasks: usize, work: impl Fn(usize) -> F) -> Cost
where
    F: Future<Output = ()> + Send + 'static,
{
    cost(|| {
        let tasks: Vec<_> = (0..tasks).map(|task| runtime.spawn(work(task))).collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    })
}

fn gets(runtime: &Runtime, store: &Arc<dyn Store>, connection: &str, table: &mut Table) {
    let script = format!(
        "\\set number random(0, {})\nSELECT id, ver, doc FROM \"c_benchSvcDocs\" WHERE id = 'doc_' || lpad((:number)::text, 8, '0');\n",
        DOCUMENTS - 1
    );
    let ours = |tasks: usize| {
        shared(runtime, tasks, |task| {
            let store = store.clone();
            async move {
                let mut numbers = Numbers(task as u64);
                for _ in 0..GETS / tasks {
                    assert!(store.get(DOCS.name, &id(numbers.below(DOCUMENTS))).await.unwrap().is_some());
                }
            }
        })
    };
    let [alone, eight, micros] = medians(|| {
        let (alone, eight) = (ours(1), ours(8));
        let rate = |cost: &Cost, tasks: usize| cost.rate(GETS / tasks * tasks);
        [
            rate(&alone, 1) / pgbench(connection, 1, &script),
            rate(&eight, 8) / pgbench(connection, 8, &script),
            eight.micros(GETS),
        ]
    });
    table.line("PostgreSQL get c1 / pgbench", alone, Hold::AtLeast(0.9), String::new());
    table.line("PostgreSQL get c8 / pgbench", eight, Hold::AtLeast(0.9), String::new());
    table.line("CPU of the client for a get from PostgreSQL, us", micros, Hold::AtMost(25.0), String::new());
}

fn inserts(runtime: &Runtime, store: &Arc<dyn Store>, connection: &str, table: &mut Table) {
    // A document of about the same size, with an entry in the list as most have, in the statement that ours are stored
    // with; what it has to bind is made by the server.
    let text = "x".repeat(430);
    let list = "s_benchSvcDocs(readers/value)";
    let insert = |version: &str, unless: &str, entries: &str| {
        format!(
            "\\set number random(100000000, 2000000000)\n\
             WITH d AS (INSERT INTO \"c_benchSvcDocs\"(id, ver, doc, f_group, f_value) VALUES \
             ('b' || (:number)::text || '-' || (random() * 1000000000)::bigint::text, {version}, \
             json_build_object('group', 'g' || (:number)::text, 'value', (:number)::bigint, 'text', '{text}', 'readers', json_build_array('account-7')), \
             decode(lpad(to_hex((:number)::bigint), 16, '0'), 'hex'), decode(lpad(to_hex((:number)::bigint), 16, '0'), 'hex')) {unless} RETURNING id, ver, f_value), \
             c0 AS (INSERT INTO \"{list}\"(val, k1, id) SELECT {entries}) SELECT ver FROM d;\n"
        )
    };
    let same = insert(
        "nextval('_store_version')",
        "ON CONFLICT (id) DO NOTHING",
        "v, f_value, id FROM d, unnest(ARRAY['\\x05'::bytea]) v ON CONFLICT DO NOTHING",
    );
    let plain = insert("1", "", "'\\x05'::bytea, f_value, id FROM d");
    let mut start = 1_000_000;
    let [ratio, to_plain, rate] = medians(|| {
        let first = start;
        start += INSERTS;
        let ours = shared(runtime, CLIENTS, |task| {
            let store = store.clone();
            async move {
                let each = INSERTS / CLIENTS;
                for number in first + task * each..first + (task + 1) * each {
                    store.commit(batch(number..number + 1)).await.unwrap();
                }
            }
        });
        let ours = ours.rate(INSERTS);
        [ours / pgbench(connection, CLIENTS, &same), ours / pgbench(connection, CLIENTS, &plain), ours]
    });
    table.line("PostgreSQL insert c32 / pgbench", ratio, Hold::AtLeast(0.9), format!("{rate:.0} inserts/s"));
    let what = "PostgreSQL insert c32 / pgbench without versions and conflicts";
    table.line(what, to_plain, Hold::Nothing, String::new());
}
