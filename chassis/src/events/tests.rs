//! Unit tests of event streams, polled by hand.

use std::{net::Ipv4Addr, task::Waker};

use openorch_api::{
    events::{EventReader, ReceivedEvent},
    output::{EncodedBody, Output},
    platform::RequestSeen,
};

use super::*;

fn seen(path: &str) -> RequestSeen {
    RequestSeen { path: path.into(), ..RequestSeen::default() }
}

fn requester(last: u8) -> Requester {
    Requester::Network(Ipv4Addr::new(192, 0, 2, last).into())
}

/// The pieces that are ready, and whether the stream has ended.
fn poll_all(events: &mut EncodedBody) -> (String, bool) {
    let EncodedBody::Stream { pieces, .. } = events else { panic!("a stream") };
    let mut text = String::new();
    loop {
        match pieces(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(piece)) => text += std::str::from_utf8(&piece.unwrap()).unwrap(),
            Poll::Ready(None) => return (text, true),
            Poll::Pending => return (text, false),
        }
    }
}

fn follow(topic: &Arc<Topic<RequestSeen>>, streams: &Arc<EventStreams>) -> EncodedBody {
    let place = streams.acquire(requester(1)).unwrap();
    topic.subscribe(|_| true).into_events(place).encode().unwrap().unwrap().body
}

/// Paths of the requests, and how many were missed.
fn read(text: &str) -> (Vec<String>, u64) {
    let mut events = Vec::new();
    EventReader::new(1 << 20).read(text.as_bytes(), &mut events).unwrap();
    let (mut paths, mut missed) = (Vec::new(), 0);
    for ReceivedEvent { name, data } in events {
        let data: serde_json::Value = serde_json::from_str(&data).unwrap();
        match name.as_str() {
            "request" => paths.push(data["path"].as_str().unwrap().to_owned()),
            "missed" => missed += data["count"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    (paths, missed)
}

#[tokio::test]
async fn one_who_does_not_read_holds_a_bounded_number_of_bytes_and_is_told_how_many_were_missed() {
    let (topic, streams) = (Topic::new(4 << 10), Arc::<EventStreams>::default());
    let mut slow = follow(&topic, &streams);
    assert_eq!(poll_all(&mut slow), (":\n\n".into(), false), "the stream is confirmed at once");
    for n in 0..1000 {
        topic.publish(&seen(&format!("/{n}")));
    }
    let (text, has_ended) = poll_all(&mut slow);
    assert!(text.len() < 5 << 10 && !has_ended, "{}", text.len());
    let (paths, missed) = read(&text);
    assert_eq!(paths.len() as u64 + missed, 1000);
    assert_eq!(paths.last().unwrap(), "/999", "the newest are kept");
    assert_eq!(paths[0], format!("/{missed}"), "the oldest were dropped");
    topic.publish(&seen("/after"));
    assert_eq!(read(&poll_all(&mut slow).0), (vec!["/after".into()], 0));
    // An event larger than the queue is dropped, the others are not.
    topic.publish(&seen("/fits"));
    topic.publish(&seen(&"x".repeat(5 << 10)));
    assert_eq!(read(&poll_all(&mut slow).0), (vec!["/fits".into()], 1));
}

#[tokio::test]
async fn a_drain_ends_streams_with_what_waits_and_the_time_to_connect_again_and_lets_none_begin() {
    let (topic, streams) = (Topic::new(64 << 10), Arc::<EventStreams>::default());
    let mut open = follow(&topic, &streams);
    poll_all(&mut open);
    topic.publish(&seen("/last"));
    streams.drain();
    let (text, has_ended) = poll_all(&mut open);
    assert!(has_ended && text.ends_with("retry: 1000\n\n"), "{text}");
    assert_eq!(read(&text).0, ["/last"]);
    assert_eq!(streams.acquire(requester(1)).err().unwrap().code, &platform::STOPPING);
}

#[tokio::test(start_paused = true)]
async fn a_stream_on_which_nothing_happens_says_that_it_stands() {
    let (topic, streams) = (Topic::new(64 << 10), Arc::<EventStreams>::default());
    let mut idle = follow(&topic, &streams);
    poll_all(&mut idle);
    tokio::time::advance(Duration::from_secs(14)).await;
    topic.publish(&seen("/x"));
    assert_eq!(read(&poll_all(&mut idle).0).0, ["/x"]);
    // The event has reset the heartbeat.
    tokio::time::advance(Duration::from_secs(14)).await;
    assert_eq!(poll_all(&mut idle).0, "");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(poll_all(&mut idle).0, ":\n\n");
}

#[tokio::test]
async fn streams_are_bounded_for_each_and_for_all_and_free_their_places() {
    let settings = EventSettings { max_streams_per_account: 2, max_streams: 3, ..EventSettings::default() };
    let streams = Arc::new(EventStreams::new(settings));
    let enter = |last| streams.acquire(requester(last));
    let refused = |last| enter(last).err().map(|error| (error.code, error.message.into_owned())).unwrap();
    let (first, _second) = (enter(1).unwrap(), enter(1).unwrap());
    let (code, sentence) = refused(1);
    assert!(code == &access::TOO_MANY_STREAMS && sentence.contains("limit of 2 open"), "{sentence}");
    let _third = enter(2).unwrap();
    let (code, sentence) = refused(3);
    assert!(code == &access::STREAMS_FULL && sentence.contains("limit of 3 open"), "{sentence}");
    drop(first);
    assert!(enter(1).is_ok());
    assert_eq!(streams.count(), 2);
    assert_eq!(streams.lock().len(), 2, "requesters without a stream have no entry");

    let topic = Topic::new(1 << 10);
    assert!(!topic.has_subscribers());
    let following = topic.subscribe(|seen: &RequestSeen| seen.path == "/wanted");
    assert!(topic.has_subscribers());
    topic.publish(&seen("/other"));
    topic.publish(&seen("/wanted"));
    assert_eq!(read(std::str::from_utf8(&following.take_all()).unwrap()).0, ["/wanted"]);
    drop(following);
    assert!(!topic.has_subscribers());
}
