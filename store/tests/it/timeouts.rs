//! Timeouts, and abandoned streams that must not block others.

use std::time::{Duration, Instant};

use openorch_store::{Batch, Filter, Query, StoreError};
use serde_json::json;

use crate::{Bench, PLAIN, THINGS, fill, ids, suite::TestOptions};

const T: &str = THINGS.name;

cases_of_engines! {
    a_read_that_takes_too_long_is_ended_and_said_so,
    a_stream_whose_rows_nobody_takes_is_ended_and_says_so,
    a_stream_that_waits_too_long_for_others_is_refused,
    a_stream_that_is_dropped_ends_its_reading_at_once,
    a_stream_shows_one_moment_and_holds_up_no_writer,
}

async fn with_options(bench: Bench, wishes: TestOptions) -> Bench {
    Bench::with_options(bench.engine, wishes).await.expect("the engine is available")
}

async fn a_read_that_takes_too_long_is_ended_and_said_so(bench: Bench) {
    let bench =
        with_options(bench, TestOptions { read_limit: Some(Duration::from_millis(1)), ..TestOptions::default() }).await;
    fill(&bench.store, 5000).await;
    let slow = [Filter::contains("text", "nowhere"), Filter::contains("other", "nowhere")];
    let query = slow.iter().fold(Query::all().ascending("text"), |query, filter| query.filter(filter.clone()));
    let sentence = "the read took longer than 0.001 s; narrow the query, or filter by indexed fields";
    let too_long = StoreError::TimedOut(sentence.into());
    assert_eq!(bench.store.find(T, &query).await.map(drop), Err(too_long.clone()), "{:?}", bench.engine);
    assert_eq!(bench.store.count(T, &slow).await, Err(too_long));
    // The interrupted connection is usable again, or replaced.
    let committed = bench.store.commit(Batch::new().delete(T, "t00001")).await;
    assert_eq!(committed.unwrap().rows_affected, [1]);
}

async fn a_stream_whose_rows_nobody_takes_is_ended_and_says_so(bench: Bench) {
    let limit = Duration::from_millis(100);
    let bench = with_options(bench, TestOptions { piece_limit: Some(limit), ..TestOptions::default() }).await;
    fill(&bench.store, 5000).await;
    let mut rows = bench.store.stream(T, &Query::all()).await.unwrap();
    let mut taken = rows.next().await.unwrap().unwrap().len();
    // Until the timeout has certainly passed; it uses real time, so no clock can be advanced.
    tokio::time::sleep(limit * 4).await;
    let error = loop {
        match rows.next().await {
            Ok(Some(piece)) => taken += piece.len(),
            Ok(None) => panic!("the whole stream was sent"),
            Err(error) => break error,
        }
    };
    let sentence = "the result was read too slowly; repeat the query and read it faster";
    assert_eq!(error, StoreError::TimedOut(sentence.into()));
    assert!(taken < 5000);
    assert_eq!(rows.next().await, Ok(None), "the stream has ended after an error");
}

async fn a_stream_that_waits_too_long_for_others_is_refused(bench: Bench) {
    let wishes = TestOptions { read_limit: Some(Duration::from_millis(200)), ..TestOptions::default() };
    let bench = with_options(bench, wishes).await;
    fill(&bench.store, 5000).await;
    let mut held = Vec::new();
    let refusal = loop {
        match bench.store.stream(T, &Query::all()).await {
            Ok(rows) => held.push(rows),
            Err(error) => break error,
        }
        assert!(held.len() < 100, "there is a limit");
    };
    assert!(matches!(&refusal, StoreError::TimedOut(text) if text.contains("streamed results")), "{refusal:?}");
    held.pop();
    assert!(bench.store.stream(T, &Query::all()).await.is_ok(), "a slot is free again");
}

async fn a_stream_that_is_dropped_ends_its_reading_at_once(bench: Bench) {
    fill(&bench.store, 3000).await;
    let start = Instant::now();
    // Many more than may run concurrently, each abandoned after its first chunk.
    for _ in 0..40 {
        let mut rows = bench.store.stream(T, &Query::all()).await.unwrap();
        assert!(rows.next().await.unwrap().is_some());
    }
    assert!(start.elapsed() < Duration::from_secs(20), "no stream waited for a timeout");
    assert_eq!(bench.store.count(T, &[]).await, Ok(3000));
}

async fn a_stream_shows_one_moment_and_holds_up_no_writer(bench: Bench) {
    fill(&bench.store, 3000).await;
    let mut rows = bench.store.stream(T, &Query::all().descending("rank")).await.unwrap();
    let first = rows.next().await.unwrap().unwrap();
    assert_eq!(first[0].id, "t02999");
    let delete = (0..1000).fold(Batch::new(), |batch, i| batch.delete(T, format!("t{i:05}")));
    bench.store.commit(delete.create(T, "new", json!({"rank": 1}).to_string())).await.unwrap();
    let mut all = first;
    while let Some(piece) = rows.next().await.unwrap() {
        all.extend(piece);
    }
    let wanted: Vec<String> = (0..3000).rev().map(|i| format!("t{i:05}")).collect();
    assert_eq!(all.into_iter().map(|row| row.id).collect::<Vec<_>>(), wanted);
    assert_eq!(ids(&bench.store, T, &Query::all()).await.len(), 2001);
    assert_eq!(bench.store.count(PLAIN.name, &[]).await, Ok(0));
}
