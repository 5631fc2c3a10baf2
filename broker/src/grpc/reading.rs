//! Requests that are being read: how much memory the parts of large messages may take together.
//!
//! A message can be decoded once all of it is there. Until then it is in memory, and nobody knows of it:
//! what calls there may be, times what a request may be, is more than any machine has. So a large message
//! takes room for all of itself from its beginning to its end, and where there is none, its request is
//! refused for now; were it to wait, what came of it would fill its connection's window, and keep back
//! those that get on. Whoever has room and sends next to nothing is refused as well, once room is short.
//! Small messages need none: jobs go on, whatever others send. A consumer's stream takes what it needs and
//! is not refused: it would lose its leases.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::convert::bounds::REQUEST_BYTES_MAX;
use super::fault::Fault;
use crate::queue::refused::Refused;

/// What there is no room in.
pub(super) const LIMIT: &str = "unfinished_bytes";
/// Bytes of a message from which on it needs room.
pub(super) const LARGE: usize = 64 << 10;
/// How long it may take until as much as [`LARGE`] more of a message has come, where room is short.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for all large messages that are being read, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: usize,
    taken: AtomicUsize,
}

impl Room {
    /// So many bytes, or one request of any size.
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes.max(REQUEST_BYTES_MAX);
        Self(Arc::new(Inner { bytes, taken: AtomicUsize::new(0) }))
    }

    /// How much there is, whoever has it.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// A request whose large messages need room. One that is not `refusable` is read in any case.
    pub(super) fn read<B>(&self, body: B, refusable: bool) -> Reading<B> {
        Reading {
            body,
            messages: Messages::default(),
            share: Share { room: self.clone(), bytes: 0 },
            refusable,
            patience: PATIENCE,
            slow: None,
        }
    }

    fn is_short(&self) -> bool {
        self.0.bytes / 2 < self.0.taken.load(Relaxed)
    }
}

/// What one request has of the room; dropped, others have it.
#[derive(Debug)]
struct Share {
    room: Room,
    bytes: usize,
}

impl Share {
    /// Has so many bytes from now on; whether there was room for them.
    fn set(&mut self, bytes: usize) -> bool {
        let Inner { bytes: all, taken } = &*self.room.0;
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes <= before {
            taken.fetch_sub(before - bytes, Relaxed);
            return true;
        }
        let more = bytes - before;
        taken.fetch_add(more, Relaxed) + more <= *all
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The body of a request.
#[derive(Debug)]
pub(super) struct Reading<B> {
    body: B,
    messages: Messages,
    share: Share,
    refusable: bool,
    patience: Duration,
    /// Until when more of a large message has to come, and how much of it there was before.
    slow: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<B> Reading<B> {
    /// More of the request came.
    ///
    /// # Errors
    /// Where there is no room for it.
    fn came(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.messages.follow(data);
        let (there, whole) = (self.messages.there(), self.messages.under_way());
        // What is too large is refused by its length alone.
        let needs_room = |bytes: &usize| (LARGE..=REQUEST_BYTES_MAX).contains(bytes);
        let has_room = self.share.set(whole.filter(needs_room).unwrap_or_default());
        let is_faster = |(_, before): &(_, usize)| there < *before || *before + LARGE <= there;
        self.slow.take_if(|slow| is_faster(slow));
        if has_room || !self.refusable { Ok(()) } else { Err(self.no_room()) }
    }

    /// Nothing came; whether too little has for too long, while others need the room.
    fn is_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        if self.share.bytes == 0 || !self.refusable {
            return false;
        }
        loop {
            let begin = || (Box::pin(tokio::time::sleep(self.patience)), self.messages.there());
            let (patience, _) = self.slow.get_or_insert_with(begin);
            if patience.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.slow = None;
            if self.share.room.is_short() {
                return true;
            }
        }
    }

    fn no_room(&self) -> Fault {
        Refused::Limit { what: LIMIT, max: self.share.room.bytes() }.into()
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
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let came = frame.data_ref().map_or(Ok(()), |data| this.came(data));
                Poll::Ready(Some(
                    came.map(|()| frame).map_err(|fault| fault.while_reading().into()),
                ))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.is_too_slow(cx) => {
                Poll::Ready(Some(Err(this.no_room().while_reading().into())))
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
    /// Follows what came.
    fn follow(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.begun < PREFIX {
                let (head, rest) = data.split_at(data.len().min(PREFIX - self.begun));
                self.prefix[self.begun..][..head.len()].copy_from_slice(head);
                self.begun += head.len();
                data = rest;
                if self.begun < PREFIX {
                    return;
                }
                self.left = self.len();
            }
            let part = data.len().min(self.left);
            data = &data[part..];
            self.left -= part;
            if self.left == 0 {
                self.begun = 0;
            }
        }
    }

    fn len(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }

    /// Length of the message of which a part is still to come.
    fn under_way(&self) -> Option<usize> {
        (self.begun == PREFIX).then(|| self.len())
    }

    /// Bytes that came of it.
    fn there(&self) -> usize {
        self.under_way().map_or(0, |bytes| bytes - self.left)
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

    fn taken(room: &Room) -> usize {
        room.0.taken.load(Relaxed)
    }

    fn is_refused(ended: Option<Result<(), axum::BoxError>>) -> bool {
        let error = ended.expect("it has ended").expect_err("it is refused");
        let status = error.downcast::<tonic::Status>().expect("a status");
        matches!(Fault::unreadable(&status), Fault::Refused(Refused::Limit { what: LIMIT, .. }))
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let sizes = [0, 1, 70_000, 3, 0, 200_000];
        let all: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
        for part in [1, 2, 3, 7, 4096, all.len()] {
            let (mut messages, mut most) = (Messages::default(), 0);
            for data in all.chunks(part) {
                messages.follow(data);
                most = most.max(messages.there());
            }
            assert_eq!(messages.there(), 0, "all has come");
            assert!(part == all.len() || 200_000 - part <= most, "{part}: {most}");
            let room = Room::new(REQUEST_BYTES_MAX);
            let (bytes, ended) = read(&mut room.read(sent(&all, part, true), true));
            assert_eq!((bytes, ended.unwrap().is_ok(), taken(&room)), (all.len(), true, 0));
        }
    }

    #[tokio::test]
    async fn large_messages_are_refused_where_there_is_no_room_and_others_are_not() {
        let room = Room::new(0);
        let (large, part) = (message(9 << 20), 1 << 20);
        // Its length comes alone, and then a part of it.
        let mut first = room.read(sent(&large[..PREFIX], part, false), true);
        assert_eq!(read(&mut first).0, PREFIX);
        assert!(is_refused(read(&mut room.read(sent(&large, part, true), true)).1));
        first.body.0.push_back(Bytes::copy_from_slice(&large[PREFIX..part]));
        assert!(matches!(read(&mut first), (_, None)));
        assert_eq!(taken(&room), 9 << 20, "what is refused is gone");
        let mut small = room.read(sent(&message(LARGE - 1), 1_000, true), true);
        assert!(matches!(read(&mut small), (_, Some(Ok(())))));
        let mut consumer = room.read(sent(&large, part, true), false);
        assert!(matches!(read(&mut consumer), (_, Some(Ok(())))));
        drop(first);
        let mut again = room.read(sent(&large, part, true), true);
        assert!(matches!(read(&mut again), (_, Some(Ok(())))));
        assert_eq!(taken(&room), 0);
    }

    /// The next poll, after much less than the broker's patience.
    async fn polled(reading: &mut Reading<Sent>) -> Option<Result<(), axum::BoxError>> {
        let next = poll_fn(|cx| Pin::new(&mut *reading).poll_frame(cx)).await;
        next.map(|frame| frame.map(drop))
    }

    #[tokio::test]
    async fn who_sends_next_to_nothing_is_refused_where_room_is_short() {
        let room = Room::new(2 * REQUEST_BYTES_MAX);
        let large = message(12 << 20);
        let mut other = room.read(sent(&large[..9 << 20], 1 << 20, false), true);
        assert!(read(&mut other).1.is_none(), "nobody is in its way");
        let mut slow = room.read(sent(&large[..1 << 17], 1_000, false), true);
        slow.patience = Duration::from_millis(1);
        assert!(read(&mut slow).1.is_none());
        // Little more is as good as nothing.
        slow.body.0.push_back(Bytes::from_static(b"x"));
        assert!(read(&mut slow).1.is_none());
        assert!(is_refused(polled(&mut slow).await));
        drop((other, slow));
        let mut slow = room.read(sent(&large[..1 << 17], 1_000, false), true);
        slow.patience = Duration::from_millis(1);
        assert!(read(&mut slow).1.is_none());
        let waiting = tokio::time::timeout(Duration::from_millis(20), polled(&mut slow)).await;
        assert!(waiting.is_err(), "nobody needs its room");
    }
}
