//! Streams of server-sent events: a [`Topic`] publishes each event to its subscribers, each with a bounded queue; a
//! [`Subscription`] becomes the body of an answer. The limits on the number of streams, the heartbeat and the end of all streams
//! at the start of a drain are here too.

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
    service::Asker,
    settings,
    settings::{ByteSize, Interval},
};

settings! {
    /// Streams of events: `[events]`.
    pub struct EventSettings in "events" {
        /// Time without an event after which a stream sends a comment, so that both sides know that the other is there.
        heartbeat_interval: Interval = "15s";
        /// Time that clients are told to wait before they connect again when a stop of the daemon ends their stream.
        reconnect_delay: Duration = "1s";
        /// Bytes of events that wait for one client; beyond it the oldest are dropped, and the client is told how many.
        max_queue_bytes: ByteSize = "64KiB";
        /// Open streams of events of one account, or of one address that is not signed in.
        max_streams_per_account: usize = "16";
        /// Open streams of events of all together.
        max_streams: usize = "1000";
    }
}

/// The open streams of a daemon.
pub struct Streams {
    settings: EventSettings,
    open: Mutex<HashMap<Asker, usize>>,
    draining: watch::Sender<bool>,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams::new(EventSettings::default())
    }
}

impl Streams {
    pub fn new(settings: EventSettings) -> Streams {
        Streams { settings, open: Mutex::default(), draining: watch::Sender::new(false) }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.lock().values().sum()
    }

    /// Ends those that are open, and lets no other begin: the daemon begins to stop.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// A place for another stream. Taken before the handler runs, so that a refusal costs nothing.
    pub(crate) fn enter(self: &Arc<Streams>, asker: Asker) -> Result<StreamPlace> {
        if *self.draining.borrow() {
            return Err(Error::new(&platform::STOPPING, "the daemon is stopping; try again in a moment"));
        }
        let mut open = self.lock();
        let EventSettings { max_streams, max_streams_per_account, .. } = self.settings;
        if open.values().sum::<usize>() >= max_streams {
            return Err(Error::new(
                &access::STREAMS_FULL,
                format!(
                    "{max_streams} streams of events are open, as many as there may be (OPENORCH_EVENTS_MAX_STREAMS); \
                     try again when some have ended"
                ),
            ));
        }
        if open.get(&asker).is_some_and(|own| *own >= max_streams_per_account) || max_streams_per_account == 0 {
            return Err(Error::new(
                &access::TOO_MANY_STREAMS,
                format!(
                    "you have {max_streams_per_account} streams of events open, as many as one account may have \
                     (OPENORCH_EVENTS_MAX_STREAMS_PER_ACCOUNT); end one of them"
                ),
            ));
        }
        *open.entry(asker.clone()).or_default() += 1;
        Ok(StreamPlace { streams: self.clone(), asker })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Asker, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of an open stream; it is free again once this is dropped.
pub(crate) struct StreamPlace {
    streams: Arc<Streams>,
    asker: Asker,
}

impl Drop for StreamPlace {
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

/// Bytes of memory that a stream holds beside its queue: the piece that is being sent, the timer, the body.
const HELD_BESIDE: usize = queue::MAX_PIECE + (4 << 10);

impl<E: Event> Subscription<E> {
    /// The body of the answer.
    pub(crate) fn into_events(self, place: StreamPlace) -> Events<E> {
        let mut draining = place.streams.draining.subscribe();
        let interval = *place.streams.settings.heartbeat_interval;
        let held = self.max_bytes() + HELD_BESIDE;
        let mut open = Open {
            subscription: self,
            heartbeat: Box::pin(sleep(interval)),
            interval,
            drained: Box::pin(async move {
                // A sender that is gone has stopped as well.
                let _ = draining.wait_for(|is_draining| *is_draining).await;
            }),
            has_begun: false,
            place,
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
        Events::new(Box::new(pieces), held)
    }
}

/// A stream that a client reads.
struct Open<E: Event> {
    subscription: Subscription<E>,
    heartbeat: Pin<Box<Sleep>>,
    interval: Duration,
    drained: BoxFuture<'static, ()>,
    has_begun: bool,
    place: StreamPlace,
}

enum Piece {
    More(Bytes),
    /// The stream ends after it.
    Last(Bytes),
}

impl<E: Event> Open<E> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Piece> {
        if self.drained.as_mut().poll(context).is_ready() {
            let retry = encode_retry(self.place.streams.settings.reconnect_delay);
            let mut left = self.subscription.take_all();
            left.extend_from_slice(&retry);
            return Poll::Ready(Piece::Last(left.into()));
        }
        let piece = match self.subscription.poll_take(context) {
            Poll::Ready(piece) => piece,
            // The first piece says that the stream stands, also through proxies that wait for one.
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
