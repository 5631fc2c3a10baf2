//! Requests that are being read: how much memory the parts of large messages may take together.
//!
//! A message can be decoded once all of it is there. Until then it is in memory, and nobody knows of it:
//! what calls there may be, times what a request may be, is more than any machine has. So a large
//! message takes room for all of itself when it begins. Where there is none, its request is refused for
//! now; were it to wait, what came of it would fill its connection's window, and keep back those that
//! have room. Who has room and sends nothing loses it. Small messages need none: jobs go on, whatever
//! others send.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::convert::bounds::REQUEST_BYTES_MAX;
use super::fault::Fault;
use crate::queue::refused::Refused;

/// What there is no room in.
pub(super) const LIMIT: &str = "unfinished_bytes";
/// A message that needs no room is smaller than this, in bytes.
const LARGE: usize = 64 << 10;
/// How long a client that has room may send nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for all large messages that are being read, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    bytes: usize,
}

impl Room {
    /// So many bytes, or one request of any size.
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(REQUEST_BYTES_MAX, Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// Room in bytes, whoever has it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A request whose large messages need room.
    pub(super) fn read<B>(&self, body: B) -> Reading<B> {
        Reading {
            body,
            messages: Messages::default(),
            room: self.clone(),
            held: None,
            patience: PATIENCE,
            silence: None,
        }
    }
}

/// The body of a request.
#[derive(Debug)]
pub(super) struct Reading<B> {
    body: B,
    messages: Messages,
    room: Room,
    held: Option<OwnedSemaphorePermit>,
    patience: Duration,
    /// Since when nothing came of a message that has room.
    silence: Option<Pin<Box<Sleep>>>,
}

impl<B> Reading<B> {
    /// More of the request came.
    ///
    /// # Errors
    /// Where a large message has begun, and there is no room for it.
    fn came(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.silence = None;
        if !self.messages.follow(data) {
            return Ok(());
        }
        self.held = None;
        // What is too large is refused by its length alone.
        let Some(bytes @ LARGE..=REQUEST_BYTES_MAX) = self.messages.under_way() else {
            return Ok(());
        };
        let bytes = u32::try_from(bytes).expect("no more than 16 MiB");
        match self.room.free.clone().try_acquire_many_owned(bytes) {
            Ok(held) => self.held = Some(held),
            Err(_) => return Err(no_room(self.room.bytes)),
        }
        Ok(())
    }

    /// Nothing came; whether that has been so for too long.
    fn is_silent_for_too_long(&mut self, cx: &mut Context<'_>) -> bool {
        if self.held.is_none() {
            return false;
        }
        let begin = || Box::pin(tokio::time::sleep(self.patience));
        self.silence.get_or_insert_with(begin).as_mut().poll(cx).is_ready()
    }
}

fn no_room(max: usize) -> Fault {
    Refused::Limit { what: LIMIT, max }.into()
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
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let came = frame.data_ref().map_or(Ok(()), |data| this.came(data));
                Poll::Ready(Some(
                    came.map(|()| frame).map_err(|fault| fault.while_reading().into()),
                ))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.is_silent_for_too_long(cx) => {
                let why = format!("nothing more of the message came for {:?}", this.patience);
                Poll::Ready(Some(Err(Fault::Unreadable(why).while_reading().into())))
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

/// Where in its messages a request is: each has a flag and its length in four bytes before it (gRPC over
/// HTTP/2, "Length-Prefixed-Message").
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that came.
    begun: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

const PREFIX: usize = 5;

impl Messages {
    /// Follows what came; whether a message has begun or ended in it.
    fn follow(&mut self, mut data: &[u8]) -> bool {
        let mut has_changed = false;
        while !data.is_empty() {
            if self.begun < PREFIX {
                let (head, rest) = data.split_at(data.len().min(PREFIX - self.begun));
                self.prefix[self.begun..][..head.len()].copy_from_slice(head);
                self.begun += head.len();
                data = rest;
                if self.begun < PREFIX {
                    break;
                }
                self.left = self.len();
            }
            let part = data.len().min(self.left);
            data = &data[part..];
            self.left -= part;
            has_changed = has_changed || self.left == 0 || self.left + part == self.len();
            if self.left == 0 {
                self.begun = 0;
            }
        }
        has_changed
    }

    fn len(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }

    /// Length of the message of which a part is still to come.
    fn under_way(&self) -> Option<usize> {
        (self.begun == PREFIX).then(|| self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;

    /// What a client sends, and whether it then ends; otherwise it sends nothing more.
    #[derive(Debug)]
    struct Sent(VecDeque<Bytes>, bool);

    impl Body for Sent {
        type Data = Bytes;
        type Error = axum::BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match (self.0.pop_front(), self.1) {
                (Some(data), _) => Poll::Ready(Some(Ok(Frame::data(data)))),
                (None, true) => Poll::Ready(None),
                (None, false) => Poll::Pending,
            }
        }
    }

    fn message(bytes: usize) -> Vec<u8> {
        let prefix = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[0], &prefix[..], &vec![7; bytes]].concat()
    }

    fn sent(bytes: &[u8], part: usize, ends: bool) -> Sent {
        Sent(bytes.chunks(part).map(Bytes::copy_from_slice).collect(), ends)
    }

    /// Reads as far as it gets without anybody else; how many bytes, and how it ended.
    fn read(reading: &mut Reading<Sent>) -> (usize, Option<Result<(), axum::BoxError>>) {
        let mut bytes = 0;
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut *reading).poll_frame(cx)).now_or_never();
            match frame {
                None => return (bytes, None),
                Some(None) => return (bytes, Some(Ok(()))),
                Some(Some(Err(error))) => return (bytes, Some(Err(error))),
                Some(Some(Ok(frame))) => bytes += frame.data_ref().unwrap().len(),
            }
        }
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let sizes = [0, 1, 70_000, 3, 0, 200_000];
        let all: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
        for part in [1, 2, 3, 7, 4096, all.len()] {
            let mut messages = Messages::default();
            let mut seen = Vec::new();
            for data in all.chunks(part) {
                messages.follow(data);
                seen.extend(messages.under_way());
            }
            assert_eq!(messages.under_way(), None, "all has come");
            seen.dedup();
            assert!(part == all.len() || seen.ends_with(&[200_000]), "{part}: {seen:?}");
            let room = Room::new(REQUEST_BYTES_MAX);
            let (bytes, ended) = read(&mut room.read(sent(&all, part, true)));
            assert_eq!((bytes, ended.unwrap().is_ok()), (all.len(), true));
            assert_eq!(room.free.available_permits(), REQUEST_BYTES_MAX);
        }
    }

    #[tokio::test]
    async fn large_messages_are_refused_while_there_is_no_room_and_small_ones_are_not() {
        let room = Room::new(0);
        let (large, part) = (message(9 << 20), 1 << 20);
        let mut first = room.read(sent(&large[..2 << 20], part, false));
        assert!(matches!(read(&mut first), (0x20_0000, None)));
        let (bytes, ended) = read(&mut room.read(sent(&large, part, true)));
        let refused = ended.unwrap().unwrap_err().to_string();
        assert!(bytes == 0 && refused.contains("unfinished_bytes"), "{refused}");
        let mut small = room.read(sent(&message(LARGE - 1), 1_000, true));
        assert!(matches!(read(&mut small), (_, Some(Ok(())))));
        // Whoever has room gives it back with the end, by whatever way.
        drop(first);
        let (bytes, ended) = read(&mut room.read(sent(&large, part, true)));
        assert_eq!((bytes, ended.unwrap().is_ok()), (large.len(), true));
        assert_eq!(room.free.available_permits(), REQUEST_BYTES_MAX);
    }

    #[tokio::test]
    async fn who_has_room_and_sends_nothing_loses_it() {
        let room = Room::new(0);
        let large = message(1 << 20);
        let mut reading = room.read(sent(&large[..1 << 19], 1_000, false));
        reading.patience = Duration::from_millis(1);
        assert!(read(&mut reading).1.is_none());
        let next = poll_fn(|cx| Pin::new(&mut reading).poll_frame(cx)).await;
        let error = next.unwrap().unwrap_err();
        assert!(error.to_string().contains("nothing more"), "{error}");
    }

    #[test]
    fn what_is_too_large_for_any_room_is_left_to_be_refused() {
        let room = Room::new(0);
        let mut reading = room.read(sent(&message(REQUEST_BYTES_MAX + 1), 1 << 20, true));
        assert!(matches!(read(&mut reading), (_, Some(Ok(())))));
    }
}
