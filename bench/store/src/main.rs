//! Measures the store against peers on this machine, in this run: plain rusqlite with the same statements on the same
//! file, redb, and pgbench where OPENORCH_TEST_DB_STRING names a PostgreSQL. Prints a table of ratios, each the median of
//! interleaved rounds. Called by `./run`.

mod data;
mod measure;
mod postgres;
mod reads;
mod redb_peer;
mod scale;
mod writes;

use measure::Table;

fn main() {
    let section = std::env::args().nth(1).unwrap_or_else(|| "all".into());
    let wanted = |name: &str| section == "all" || section == name;
    let mut table = Table::default();
    if wanted("reads") {
        reads::run(&mut table);
    }
    if wanted("writes") {
        writes::run(&mut table);
    }
    // With a slowed disk only; `run` calls it.
    if section == "slow-disk" {
        writes::grouped(&mut table, "insert c32 / one by one, 2 ms flushes", 10.0);
    }
    if wanted("postgres") {
        postgres::run(&mut table);
    }
    // In a process of its own, which has not grown for anything else; `run` calls it.
    if section == "scale" {
        scale::run(&mut table);
    }
    print!("{}", table.text());
}
