//! Requests that are being read: how much memory large ones may take together.
//!
//! A message can be decoded once all of it is there. Until then it is in memory, and nobody knows of it;
//! and once it is there it waits for the end of its request, and for room on the way to the disk. What
//! calls there may be, times what a request may be, is more than any machine has. So a large message
//! takes room for all of itself: a stream's until the next one is asked for, that of a single request
//! until it is answered. Where there is none, its request is refused for now; were it to wait, what came
//! of it would fill its connection's window, and keep back those that get on. Whoever has room and sends
//! next to nothing is refused as well, once room is short.
//!
//! Small messages need none: jobs go on, whatever others send. And what consumers send has a room of its
//! own: whoever fills the other one keeps nobody from settling.

mod body;
mod messages;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::convert::bounds::REQUEST_BYTES_MAX;
use super::fault::Fault;
use body::Reading;

/// Bytes of a message from which on it needs room.
pub(super) const LARGE: usize = 64 << 10;
/// How many times as much as what is pending may be of large requests.
const UNFINISHED: usize = 4;

/// The room for what consumers send, and that for everything else.
#[derive(Clone, Debug)]
pub(super) struct Rooms {
    consumers: Room,
    others: Room,
}

impl Rooms {
    /// Where so many bytes may be on their way to the disk.
    pub(super) fn new(pending_bytes: usize) -> Self {
        let others = Room::new(UNFINISHED.saturating_mul(pending_bytes));
        Self { consumers: Room::new(pending_bytes), others }
    }

    /// How much may be of large requests, but for consumers'.
    pub(super) fn bytes(&self) -> usize {
        self.others.bytes()
    }

    /// The room for a call, and whether it is a stream of messages. What is not of the protocol has no
    /// large ones, and some of that asks for no token.
    fn of(&self, path: &str) -> Option<(&Room, bool)> {
        let call = path.strip_prefix("/qbroker.v1.")?;
        let of_consumer = call.starts_with("ConsumerService/");
        let is_stream =
            call == "ConsumerService/Consume" || call == "PublisherService/PublishStream";
        Some((if of_consumer { &self.consumers } else { &self.others }, is_stream))
    }
}

/// Answers as `next` does to a request that is read within its room.
pub(super) async fn read(State(rooms): State<Rooms>, request: Request, next: Next) -> Response {
    let Some((room, is_stream)) = rooms.of(request.uri().path()) else {
        return next.run(request).await;
    };
    let share = room.share();
    let body = |body| axum::body::Body::new(Reading::new(body, share.clone(), is_stream));
    let response = next.run(request.map(body)).await;
    // A stream goes on, and has its share by itself.
    drop(share);
    response
}

/// Room for large messages, in bytes.
#[derive(Clone, Debug)]
struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: usize,
    taken: AtomicUsize,
}

impl Room {
    /// So many bytes, or one request of any size.
    fn new(bytes: usize) -> Self {
        let bytes = bytes.max(REQUEST_BYTES_MAX);
        Self(Arc::new(Inner { bytes, taken: AtomicUsize::new(0) }))
    }

    /// How much there is, whoever has it.
    fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// A share of it, of nothing yet.
    fn share(&self) -> Arc<Share> {
        Arc::new(Share { room: self.clone(), bytes: AtomicUsize::new(0) })
    }

    fn is_short(&self) -> bool {
        self.0.bytes / 2 < self.0.taken.load(Relaxed)
    }
}

/// What one request has of the room; dropped, others have it.
#[derive(Debug)]
struct Share {
    room: Room,
    /// Changed by whoever reads the request, and nobody else.
    bytes: AtomicUsize,
}

impl Share {
    fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Has so many bytes from now on; what it had before, where there is no room for them.
    ///
    /// # Errors
    /// There is none.
    fn set(&self, bytes: usize) -> Result<(), Fault> {
        let Inner { bytes: all, taken } = &*self.room.0;
        let before = self.bytes();
        let with = |taken: usize| Some(taken - before + bytes);
        let fits = |taken: &usize| bytes <= before || *taken <= *all;
        if taken.fetch_update(Relaxed, Relaxed, |taken| with(taken).filter(fits)).is_err() {
            return Err(self.no_room());
        }
        self.bytes.store(bytes, Relaxed);
        Ok(())
    }

    fn no_room(&self) -> Fault {
        Fault::NoRoomToRead { max: self.room.bytes() }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.0.taken.fetch_sub(self.bytes(), Relaxed);
    }
}
