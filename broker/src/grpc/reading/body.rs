//! The body of a request, which takes room for what comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::messages::Messages;
use super::{LARGE, REQUEST_BYTES_MAX, Share};
use crate::grpc::fault::Fault;

/// How slowly a large message may come where room is short, but for 30 s.
const BYTES_PER_SECOND: usize = 128 << 10;

/// The body of a request.
#[derive(Debug)]
pub(super) struct Reading<B> {
    pub(super) body: B,
    messages: Messages,
    pub(super) share: Arc<Share>,
    /// What came before has been taken once more is asked for.
    is_stream: bool,
    /// How long so much may take.
    pub(super) patience: fn(usize) -> Duration,
    /// Of a stream's message, or of all of a single request, from the first wait for it on.
    pace: Option<Pace>,
}

impl<B> Reading<B> {
    pub(super) fn new(body: B, share: Arc<Share>, is_stream: bool) -> Self {
        let messages = Messages::default();
        Self { body, messages, share, is_stream, patience, pace: None }
    }

    /// More is asked for: takes room for the message that is under way.
    ///
    /// # Errors
    /// Where there is none for it.
    fn take_room(&self) -> Result<(), Fault> {
        let kept = if self.is_stream { 0 } else { self.share.bytes() };
        let bytes = room_for(self.messages.under_way()).max(kept);
        if bytes == self.share.bytes() { Ok(()) } else { self.share.set(bytes) }
    }

    /// Follows what came. A message that ended has its room until more is asked for, also where it came
    /// as a whole.
    ///
    /// # Errors
    /// Where there is none for it.
    fn came(&mut self, data: &[u8]) -> Result<(), Fault> {
        let Some(ended) = self.messages.follow(data) else { return Ok(()) };
        self.pace.take_if(|_| self.is_stream);
        self.share.set(room_for(Some(ended)).max(self.share.bytes()))
    }

    /// Nothing came; whether too little has in the time that it took, while others need the room.
    fn is_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        if self.share.bytes() == 0 {
            return false;
        }
        let (patience, there) = (self.patience, self.messages.there());
        // All of it, where its end alone is missing.
        let there = there.unwrap_or_else(|| self.share.bytes());
        let Pace { begun, check } = self.pace.get_or_insert_with(|| Pace::new(patience(0)));
        while check.as_mut().poll(cx).is_ready() {
            let (now, until) = (Instant::now(), *begun + patience(there));
            if now < until {
                check.as_mut().reset(until);
                continue;
            }
            if self.share.room.is_short() {
                return true;
            }
            check.as_mut().reset(now + patience(0));
        }
        false
    }
}

/// How fast a large message comes, and its request to an end.
#[derive(Debug)]
struct Pace {
    begun: Instant,
    /// When it is looked at again.
    check: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(first: Duration) -> Self {
        Self { begun: Instant::now(), check: Box::pin(tokio::time::sleep(first)) }
    }
}

impl<B> Body for Reading<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Err(fault) = this.take_room() {
            return Poll::Ready(Some(Err(fault.while_reading().into())));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let came = frame.data_ref().map_or(Ok(()), |data| this.came(data));
                let came = came.map_err(|fault| fault.while_reading().into());
                Poll::Ready(Some(came.map(|()| frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.is_too_slow(cx) => {
                Poll::Ready(Some(Err(this.share.no_room().while_reading().into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The room that a message needs, by its length.
fn room_for(message: Option<usize>) -> usize {
    // What is too large is refused by its length alone.
    message.filter(|bytes| (LARGE..=REQUEST_BYTES_MAX).contains(bytes)).unwrap_or_default()
}

/// How long it may take where room is short until more than so much of a large message has come, or all
/// of it and the end of its request.
pub(super) fn patience(bytes: usize) -> Duration {
    Duration::from_secs(30 + (bytes / BYTES_PER_SECOND) as u64)
}
