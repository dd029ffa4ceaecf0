//! Tests of graceful shutdown (decision "Stopping").

use std::time::Duration;

use crate::support::*;

#[tokio::test]
async fn a_running_request_ends_and_idle_connections_close() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let instance = listen(move |mut stream, _| {
        let mut wait = wait.clone();
        async move {
            stream.read_message().await;
            wait.wait_for(|go| *go).await.unwrap();
            stream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let mut platform = Platform::in_front_of(instance).await;
    let mut idle = platform.client().await;
    idle.round_trip(&get("/user-svc")).await;
    let mut running = platform.client().await;
    running.send(&get("/demo")).await;
    until("a request that was sent on", || platform.metrics.connected.get() != 0).await;
    platform.stop.take().unwrap().send(()).unwrap();
    assert!(within(idle.is_closed()).await);
    assert!(tokio::net::TcpStream::connect(platform.address).await.is_err(), "the listener is closed");
    go.send(true).unwrap();
    assert_eq!(running.answer().await.body, "ok");
    within(platform.ended).await.unwrap();
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_time_is_cut() {
    let instance = listen(|mut stream, _| async move {
        stream.read_message().await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut platform = Platform::with(|settings| settings.http.drain = Duration::from_millis(100)).await;
    platform.publish("demo", &[&format!("http://{instance}")]);
    let mut client = platform.client().await;
    client.send(&get("/demo")).await;
    until("a request that was sent on", || platform.metrics.connected.get() != 0).await;
    platform.stop.take().unwrap().send(()).unwrap();
    within(platform.ended).await.unwrap();
    assert!(client.is_closed().await);
}
