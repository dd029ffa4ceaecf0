//! Client-side event streams, which reconnect when the connection is lost.

use std::{
    marker::PhantomData,
    time::{Duration, Instant},
};

use openorch_api::events::{Event, EventReader, MissedEvents, ReceivedEvent};
use tokio::time::sleep_until;

use crate::{
    Client, Error, StreamingResponse,
    client::Call,
    retry::{backoff, jitter},
};

/// Maximum size of one event in bytes.
const MAX_EVENT_BYTES: usize = 1 << 20;
/// Initial reconnection delay, unless the server sets one.
const INITIAL_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Lower bound of the delay, whatever the server sets: protects against a server that closes streams immediately.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(100);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(30);

/// A stream of events, opened by [`Client::events`]. It lasts until it is dropped or the server rejects it.
///
/// If the connection is lost or the server stops, it reconnects, first after the delay that the server has set. Events in
/// between are lost: a client that must not miss any change reloads the state after [`StreamItem::Resumed`] and
/// [`StreamItem::Missed`].
///
/// ```no_run
/// use openorch_sdk::{Client, Error, StreamItem, api::{Query, platform::{MONITOR_REQUESTS, MonitorRequestsRequest}}};
///
/// async fn watch(client: &Client) -> Result<(), Error> {
///     let mut requests = client.events(MONITOR_REQUESTS, Query(MonitorRequestsRequest::default())).await?;
///     loop {
///         if let StreamItem::Event(seen) = requests.next().await? {
///             println!("{} {} {}", seen.method, seen.path, seen.status);
///         }
///     }
/// }
/// ```
#[must_use = "events are received only while the stream is read"]
pub struct EventStream<T> {
    client: Client,
    call: Call,
    state: State,
    server_delay: Option<Duration>,
    types: PhantomData<fn() -> T>,
}

/// An item of an [`EventStream`].
///
/// ```
/// use openorch_sdk::{StreamItem, api::platform::RequestSeen};
///
/// /// Whether events were lost, so that the state must be reloaded.
/// fn is_gap(item: &StreamItem<RequestSeen>) -> bool {
///     matches!(item, StreamItem::Missed(_) | StreamItem::Resumed)
/// }
/// assert!(is_gap(&StreamItem::Missed(3)));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StreamItem<T> {
    /// An event.
    Event(T),
    /// Number of events that the server dropped because this client reads too slowly.
    Missed(u64),
    /// The connection was lost, or the server closed it. The next read waits for `pause` and reconnects.
    Interrupted {
        /// The cause.
        reason: String,
        /// Delay until the next attempt.
        pause: Duration,
    },
    /// The stream is connected again. Events since the interruption are lost.
    Resumed,
}

enum State {
    Open(Box<OpenStream>),
    Waiting { until: Instant, failures: u32 },
    Refused(Error),
}

struct OpenStream {
    answer: StreamingResponse,
    reader: EventReader,
    /// Parsed events that were not returned yet, in reverse order.
    events: Vec<ReceivedEvent>,
}

impl State {
    fn open(answer: StreamingResponse) -> State {
        State::Open(Box::new(OpenStream { answer, reader: EventReader::new(MAX_EVENT_BYTES), events: Vec::new() }))
    }
}

impl<T: Event> EventStream<T> {
    pub(crate) async fn open(client: Client, call: Call) -> Result<EventStream<T>, Error> {
        let answer = client.open_event_stream(&call).await?;
        Ok(EventStream { client, call, state: State::open(answer), server_delay: None, types: PhantomData })
    }

    /// The next event or change of the connection state. An error ends the stream, for example because the session has ended
    /// or the permission was revoked.
    ///
    /// This method is cancel safe: no event is lost if it is used in `select!` and another branch completes first.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, EventStream, api::platform::RequestSeen};
    /// async fn first(mut requests: EventStream<RequestSeen>) -> Result<(), Error> {
    ///     println!("{:?}", requests.next().await?);
    ///     Ok(())
    /// }
    /// ```
    pub async fn next(&mut self) -> Result<StreamItem<T>, Error> {
        loop {
            match &mut self.state {
                State::Refused(error) => return Err(error.clone()),
                State::Waiting { until, failures } => {
                    sleep_until((*until).into()).await;
                    let failures = *failures;
                    match self.client.open_event_stream(&self.call).await {
                        Ok(answer) => {
                            self.state = State::open(answer);
                            return Ok(StreamItem::Resumed);
                        }
                        Err(error) if error.is_temporary() => {
                            let asked = error.retry_after().unwrap_or_default();
                            self.schedule_reconnect(failures + 1, asked);
                        }
                        Err(error) => self.state = State::Refused(error),
                    }
                }
                State::Open(open) => {
                    if let Some(event) = open.events.pop() {
                        if let Some(item) = decode(event).map_err(|reason| self.decode_error(reason))? {
                            return Ok(item);
                        }
                        continue;
                    }
                    let reason = match open.answer.chunk().await {
                        Ok(Some(piece)) => {
                            let read = open.reader.read(&piece, &mut open.events);
                            open.events.reverse();
                            self.server_delay = open.reader.retry().or(self.server_delay);
                            match read {
                                Ok(()) => continue,
                                Err(error) => return Err(self.decode_error(error.to_string())),
                            }
                        }
                        Ok(None) => "the server closed the stream".to_owned(),
                        Err(Error::Unexpected { reason, .. }) => reason,
                        Err(other) => other.to_string(),
                    };
                    let pause = self.schedule_reconnect(0, Duration::ZERO);
                    return Ok(StreamItem::Interrupted { reason, pause });
                }
            }
        }
    }

    /// Schedules a reconnection; returns the delay.
    fn schedule_reconnect(&mut self, failures: u32, asked: Duration) -> Duration {
        let first =
            self.server_delay.unwrap_or(INITIAL_RECONNECT_DELAY).clamp(MIN_RECONNECT_DELAY, MAX_RECONNECT_DELAY);
        // Jitter, so that clients that were disconnected together do not reconnect together.
        let pause = match failures {
            0 => first + jitter(first / 2),
            _ => first.max(asked) + backoff(INITIAL_RECONNECT_DELAY, failures, MAX_RECONNECT_DELAY),
        };
        self.state = State::Waiting { until: Instant::now() + pause, failures };
        pause
    }

    /// Ends the stream because an event cannot be decoded; a retry would not help.
    fn decode_error(&mut self, reason: String) -> Error {
        let operation = self.call.operation.clone();
        let error = Error::Unexpected { operation, status: 200, reason, request_id: None };
        self.state = State::Refused(error.clone());
        error
    }
}

/// Decodes an event; `None` if its name is unknown, for example because the server is newer.
fn decode<T: Event>(event: ReceivedEvent) -> Result<Option<StreamItem<T>>, String> {
    let ReceivedEvent { name, data } = event;
    let wrong = |error| format!("the event `{name}` cannot be decoded: {error}");
    if name == T::NAME {
        return serde_json::from_str(&data).map(|event| Some(StreamItem::Event(event))).map_err(wrong);
    }
    if name == MissedEvents::NAME {
        let missed = serde_json::from_str::<MissedEvents>(&data).map_err(wrong)?;
        return Ok(Some(StreamItem::Missed(missed.count)));
    }
    Ok(None)
}

// Not derived, so that `{:?}` never logs events, which may contain secrets.
impl<T> std::fmt::Debug for EventStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("operation", &self.call.operation).finish_non_exhaustive()
    }
}
