//! Streams of events: read as they come, and opened anew where the connection was lost.

use std::{
    marker::PhantomData,
    time::{Duration, Instant},
};

use openorch_api::events::{Event, EventReader, MissedEvents, ReceivedEvent};
use tokio::time::sleep_until;

use crate::{
    Client, Error, OpenResponse,
    client::Call,
    retry::{backoff, spread},
};

/// Most bytes of one event.
const EVENT_LIMIT: usize = 1 << 20;
/// Between attempts to connect again, where the server has not asked for another time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Never less, whatever the server says: one that ends streams at once is not to be asked without a pause.
const RETRY_LEAST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// Events as they happen, made by [`Client::events`]. It lasts until it is dropped, or the server refuses it.
///
/// Where the connection is lost, or the server stops, it connects again, first after as long as the server asked for. What
/// happened meanwhile is not told: who must know all reads the state anew after [`StreamItem::Resumed`] and
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
#[must_use = "events come while it is read"]
pub struct EventStream<T> {
    client: Client,
    call: Call,
    state: State,
    retry: Option<Duration>,
    types: PhantomData<fn() -> T>,
}

/// What comes of an [`EventStream`].
///
/// ```
/// use openorch_sdk::{StreamItem, api::platform::RequestSeen};
///
/// /// Whether what is known must be read anew.
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
    /// So many events happened that are not told, since this side reads too slowly.
    Missed(u64),
    /// The connection was lost, or the server ended it. Reading on waits so long, and connects again.
    Interrupted {
        /// Why, in words.
        reason: String,
        /// Until the next attempt.
        pause: Duration,
    },
    /// It is connected again. What happened since it was interrupted is not told.
    Resumed,
}

enum State {
    Open(Box<Open>),
    Waiting { until: Instant, failures: u32 },
    Refused(Error),
}

struct Open {
    answer: OpenResponse,
    reader: EventReader,
    /// Those that were read and not given out yet, the last one first.
    events: Vec<ReceivedEvent>,
}

impl State {
    fn open(answer: OpenResponse) -> State {
        State::Open(Box::new(Open { answer, reader: EventReader::new(EVENT_LIMIT), events: Vec::new() }))
    }
}

impl<T: Event> EventStream<T> {
    pub(crate) async fn open(client: Client, call: Call) -> Result<EventStream<T>, Error> {
        let answer = client.open_events(&call).await?;
        Ok(EventStream { client, call, state: State::open(answer), retry: None, types: PhantomData })
    }

    /// The next event, or what happened to the stream. A refusal ends it: the session has ended, or the permission is lost.
    ///
    /// It may be given up at any time, as by `select!`: nothing is lost by that.
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
                    match self.client.open_events(&self.call).await {
                        Ok(answer) => {
                            self.state = State::open(answer);
                            return Ok(StreamItem::Resumed);
                        }
                        Err(error) if error.is_temporary() => {
                            let asked = error.retry_after().unwrap_or_default();
                            self.wait(failures + 1, asked);
                        }
                        Err(error) => self.state = State::Refused(error),
                    }
                }
                State::Open(open) => {
                    if let Some(event) = open.events.pop() {
                        if let Some(item) = read(event).map_err(|reason| self.unreadable(reason))? {
                            return Ok(item);
                        }
                        continue;
                    }
                    let reason = match open.answer.chunk().await {
                        Ok(Some(piece)) => {
                            let read = open.reader.read(&piece, &mut open.events);
                            open.events.reverse();
                            self.retry = open.reader.retry().or(self.retry);
                            match read {
                                Ok(()) => continue,
                                Err(error) => return Err(self.unreadable(error.to_string())),
                            }
                        }
                        Ok(None) => "the server ended it".to_owned(),
                        Err(Error::Unexpected { reason, .. }) => reason,
                        Err(other) => other.to_string(),
                    };
                    let pause = self.wait(0, Duration::ZERO);
                    return Ok(StreamItem::Interrupted { reason, pause });
                }
            }
        }
    }

    /// Connects again after a while, which it answers.
    fn wait(&mut self, failures: u32, asked: Duration) -> Duration {
        let first = self.retry.unwrap_or(RETRY_FIRST).clamp(RETRY_LEAST, RETRY_MOST);
        // Clients that were sent away together do not come back together.
        let pause = match failures {
            0 => first + spread(first / 2),
            _ => first.max(asked) + backoff(RETRY_FIRST, failures, RETRY_MOST),
        };
        self.state = State::Waiting { until: Instant::now() + pause, failures };
        pause
    }

    /// What comes is no stream of such events: reading on would not help.
    fn unreadable(&mut self, reason: String) -> Error {
        let operation = self.call.operation.clone();
        let error = Error::Unexpected { operation, status: 200, reason, request_id: None };
        self.state = State::Refused(error.clone());
        error
    }
}

/// What an event says; nothing where its name is unknown, as of a newer server.
fn read<T: Event>(event: ReceivedEvent) -> Result<Option<StreamItem<T>>, String> {
    let ReceivedEvent { name, data } = event;
    let wrong = |error| format!("its event `{name}` cannot be read: {error}");
    if name == T::NAME {
        return serde_json::from_str(&data).map(|event| Some(StreamItem::Event(event))).map_err(wrong);
    }
    if name == MissedEvents::NAME {
        let missed = serde_json::from_str::<MissedEvents>(&data).map_err(wrong)?;
        return Ok(Some(StreamItem::Missed(missed.count)));
    }
    Ok(None)
}

// Written by hand so that no event, which may hold anything, lands in a log through `{:?}`.
impl<T> std::fmt::Debug for EventStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("operation", &self.call.operation).finish_non_exhaustive()
    }
}
