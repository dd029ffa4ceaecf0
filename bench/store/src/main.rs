//! Compares the store with plain rusqlite (the same statements on the same file), redb, and pgbench if
//! OPENORCH_TEST_DB_STRING is set, all in one run. Prints a table of ratios, each the median of interleaved rounds. Called
//! by `./run`.

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
    // Only with the preloaded slow_flush.so; see `run`.
    if section == "slow-disk" {
        writes::group_commit(&mut table, "insert c32 / sequential, 2 ms flushes", 10.0);
    }
    if wanted("postgres") {
        postgres::run(&mut table);
    }
    // In a separate process, so that its memory usage is not affected by other sections; see `run`.
    if section == "scale" {
        scale::run(&mut table);
    }
    print!("{}", table.to_markdown());
}
