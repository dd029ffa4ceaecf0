//! Server-sent events: a [`Topic`] publishes each event to its subscribers, each with a bounded queue; a [`Subscription`]
//! becomes a response body. Also limits the number of streams, sends heartbeats, and ends all streams when a drain starts.

mod queue;
mod topic;

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use openorch_api::{
    Events,
    error::{access, platform},
    events::{Event, HEARTBEAT, encode_retry},
};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep},
};

pub use self::topic::{Subscription, Topic};
use crate::{
    BoxFuture, Error, Result,
    fair_semaphore::Requester,
    settings,
    settings::{ByteSize, Interval},
};

settings! {
    /// Event streams: `[events]`.
    pub struct EventSettings in "events" {
        /// Interval of the heartbeat comments on an idle event stream.
        heartbeat_interval: Interval = "15s";
        /// Reconnection delay sent to clients when a shutdown ends their stream.
        reconnect_delay: Duration = "1s";
        /// Maximum size of the event queue of a client; on overflow the oldest events are dropped and reported as missed.
        max_queue_bytes: ByteSize = "64KiB";
        /// Maximum number of open event streams per account, or per client address without an account.
        max_streams_per_account: usize = "16";
        /// Maximum number of open event streams in total.
        max_streams: usize = "1000";
    }
}

/// The open event streams of the daemon, counted by requester.
pub struct EventStreams {
    settings: EventSettings,
    open_by_requester: Mutex<HashMap<Requester, usize>>,
    draining: watch::Sender<bool>,
}

impl Default for EventStreams {
    fn default() -> EventStreams {
        EventStreams::new(EventSettings::default())
    }
}

impl EventStreams {
    /// No open streams, with these limits on new ones.
    pub fn new(settings: EventSettings) -> EventStreams {
        EventStreams { settings, open_by_requester: Mutex::default(), draining: watch::Sender::new(false) }
    }

    /// The number of open streams.
    pub fn count(&self) -> usize {
        self.lock().values().sum()
    }

    /// Ends all streams and rejects new ones, when shutdown begins.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Acquires a slot for a stream. Called before the handler runs, so that a refused stream costs little.
    pub(crate) fn acquire(self: &Arc<EventStreams>, asker: Requester) -> Result<StreamSlot> {
        if *self.draining.borrow() {
            return Err(Error::new(&platform::STOPPING, "the daemon is stopping; try again in a moment"));
        }
        let mut open = self.lock();
        let EventSettings { max_streams, max_streams_per_account, .. } = self.settings;
        if open.values().sum::<usize>() >= max_streams {
            return Err(Error::new(
                &access::STREAMS_FULL,
                format!(
                    "the limit of {max_streams} open event streams is reached (OPENORCH_EVENTS_MAX_STREAMS); try again \
                     later"
                ),
            ));
        }
        if open.get(&asker).is_some_and(|own| *own >= max_streams_per_account) || max_streams_per_account == 0 {
            return Err(Error::new(
                &access::TOO_MANY_STREAMS,
                format!(
                    "the limit of {max_streams_per_account} open event streams per account is reached \
                     (OPENORCH_EVENTS_MAX_STREAMS_PER_ACCOUNT); close one of yours"
                ),
            ));
        }
        *open.entry(asker.clone()).or_default() += 1;
        Ok(StreamSlot { streams: self.clone(), asker })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Requester, usize>> {
        self.open_by_requester.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of an open stream, released on drop.
pub(crate) struct StreamSlot {
    streams: Arc<EventStreams>,
    asker: Requester,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(own) = open.get_mut(&self.asker) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.asker);
            }
        }
    }
}

/// Bytes of memory of a stream without its queue: the piece being sent, the timer, the body.
const STREAM_OVERHEAD: usize = queue::MAX_PIECE + (4 << 10);

impl<E: Event> Subscription<E> {
    /// The response body.
    pub(crate) fn into_events(self, slot: StreamSlot) -> Events<E> {
        let mut draining = slot.streams.draining.subscribe();
        let interval = *slot.streams.settings.heartbeat_interval;
        let memory = self.max_bytes() + STREAM_OVERHEAD;
        let mut open = OpenStream {
            subscription: self,
            heartbeat: Box::pin(sleep(interval)),
            interval,
            drained: Box::pin(async move {
                // A dropped sender means that the daemon has stopped.
                let _ = draining.wait_for(|is_draining| *is_draining).await;
            }),
            has_begun: false,
            place: slot,
        };
        let mut has_ended = false;
        let pieces = move |context: &mut Context<'_>| {
            if has_ended {
                return Poll::Ready(None);
            }
            open.poll(context).map(|piece| match piece {
                Piece::More(bytes) => Some(io::Result::Ok(bytes)),
                Piece::Last(bytes) => {
                    has_ended = true;
                    Some(Ok(bytes))
                }
            })
        };
        Events::new(Box::new(pieces), memory)
    }
}

/// An open stream.
struct OpenStream<E: Event> {
    subscription: Subscription<E>,
    heartbeat: Pin<Box<Sleep>>,
    interval: Duration,
    drained: BoxFuture<'static, ()>,
    has_begun: bool,
    place: StreamSlot,
}

enum Piece {
    More(Bytes),
    /// The last piece of the stream.
    Last(Bytes),
}

impl<E: Event> OpenStream<E> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Piece> {
        if self.drained.as_mut().poll(context).is_ready() {
            let retry = encode_retry(self.place.streams.settings.reconnect_delay);
            let mut rest = self.subscription.take_all();
            rest.extend_from_slice(&retry);
            return Poll::Ready(Piece::Last(rest.into()));
        }
        let piece = match self.subscription.poll_take(context) {
            Poll::Ready(piece) => piece,
            // The first piece confirms that the stream is open, also through proxies that buffer until the first byte.
            Poll::Pending if !self.has_begun => Bytes::from_static(HEARTBEAT),
            Poll::Pending if self.heartbeat.as_mut().poll(context).is_ready() => Bytes::from_static(HEARTBEAT),
            Poll::Pending => return Poll::Pending,
        };
        self.has_begun = true;
        self.heartbeat.as_mut().reset(Instant::now() + self.interval);
        Poll::Ready(Piece::More(piece))
    }
}

#[cfg(test)]
mod tests;
