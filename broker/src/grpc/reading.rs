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

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::convert::bounds::REQUEST_BYTES_MAX;
use super::fault::Fault;

/// Bytes of a message from which on it needs room.
pub(super) const LARGE: usize = 64 << 10;
/// How many times as much as what is pending may be of large requests.
const UNFINISHED: usize = 4;
/// How slowly a large message may come where room is short, but for 30 s.
const BYTES_PER_SECOND: usize = 128 << 10;

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

/// The body of a request.
#[derive(Debug)]
struct Reading<B> {
    body: B,
    messages: Messages,
    share: Arc<Share>,
    /// What came before has been taken once more is asked for.
    is_stream: bool,
    /// How long so much may take.
    patience: fn(usize) -> Duration,
    /// Of a stream's message, or of all of a single request, from the first wait for it on.
    pace: Option<Pace>,
}

impl<B> Reading<B> {
    fn new(body: B, share: Arc<Share>, is_stream: bool) -> Self {
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
fn patience(bytes: usize) -> Duration {
    Duration::from_secs(30 + (bytes / BYTES_PER_SECOND) as u64)
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
    /// Follows what came; the length of the longest message that ended in it.
    fn follow(&mut self, mut data: &[u8]) -> Option<usize> {
        let mut ended = None;
        while !data.is_empty() {
            if self.begun < PREFIX {
                let (head, rest) = data.split_at(data.len().min(PREFIX - self.begun));
                self.prefix[self.begun..][..head.len()].copy_from_slice(head);
                self.begun += head.len();
                data = rest;
                if self.begun < PREFIX {
                    return ended;
                }
                self.left = self.len();
            }
            let part = data.len().min(self.left);
            data = &data[part..];
            self.left -= part;
            if self.left == 0 {
                self.begun = 0;
                ended = ended.max(Some(self.len()));
            }
        }
        ended
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
    fn there(&self) -> Option<usize> {
        self.under_way().map(|bytes| bytes - self.left)
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

    const STREAM: bool = true;
    const SINGLE: bool = false;

    fn reading(room: &Room, sent: Sent, is_stream: bool) -> Reading<Sent> {
        Reading::new(sent, room.share(), is_stream)
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
        matches!(Fault::unreadable(&status), Fault::NoRoomToRead { .. })
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let sizes = [0, 1, 70_000, 3, 0, 200_000];
        let all: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
        for part in [1, 2, 3, 7, 4096, all.len()] {
            let (mut messages, mut longest) = (Messages::default(), None);
            for data in all.chunks(part) {
                longest = longest.max(messages.follow(data));
            }
            assert_eq!((longest, messages.under_way()), (Some(200_000), None), "{part}");
            let room = Room::new(REQUEST_BYTES_MAX);
            let mut stream = reading(&room, sent(&all, part, true), STREAM);
            let (bytes, ended) = read(&mut stream);
            assert_eq!((bytes, ended.unwrap().is_ok(), taken(&room)), (all.len(), true, 0));
        }
    }

    #[tokio::test]
    async fn large_messages_are_refused_where_there_is_no_room_and_others_are_not() {
        let room = Room::new(0);
        let (large, part) = (message(9 << 20), 1 << 20);
        // Its length comes alone, and then a part of it.
        let mut first = reading(&room, sent(&large[..PREFIX], part, false), SINGLE);
        assert_eq!(read(&mut first).0, PREFIX);
        let mut other = reading(&room, sent(&large, part, true), SINGLE);
        assert!(is_refused(read(&mut other).1));
        first.body.0.push_back(Bytes::copy_from_slice(&large[PREFIX..part]));
        assert!(matches!(read(&mut first), (_, None)));
        assert_eq!(taken(&room), 9 << 20, "what is refused has nothing");
        let mut small = reading(&room, sent(&message(LARGE - 1), 1_000, true), SINGLE);
        assert!(matches!(read(&mut small), (_, Some(Ok(())))));
        drop(first);
        let mut again = reading(&room, sent(&large, part, true), SINGLE);
        assert!(matches!(read(&mut again), (_, Some(Ok(())))));
    }

    /// It is in memory until somebody has seen to it.
    #[tokio::test]
    async fn a_single_request_has_its_room_until_it_is_answered() {
        let room = Room::new(0);
        // In one frame, and in many; with its end, and without.
        for (part, ends) in [(usize::MAX, true), (1 << 20, true), (1 << 20, false)] {
            let large = message(9 << 20);
            let mut single = reading(&room, sent(&large, part, ends), SINGLE);
            let share = single.share.clone();
            assert_eq!(read(&mut single).0, large.len());
            drop(single);
            assert_eq!(taken(&room), 9 << 20);
            drop(share);
            assert_eq!(taken(&room), 0);
        }
    }

    /// The frame with the end of one has the beginning of the next.
    #[tokio::test]
    async fn a_stream_has_room_for_a_message_until_it_asks_for_more() {
        let room = Room::new(0);
        let two = [message(9 << 20), message(10 << 20)].concat();
        let mut stream = reading(&room, sent(&two, 1 << 20, true), STREAM);
        let mut next = || poll_fn(|cx| Pin::new(&mut stream).poll_frame(cx)).now_or_never();
        for _ in 0..10 {
            next().expect("it is there");
        }
        assert_eq!(taken(&room), 9 << 20, "the first may wait");
        next().expect("it is there");
        assert_eq!(taken(&room), 10 << 20);
        while next().expect("it is there").is_some() {}
        assert_eq!(taken(&room), 0);
    }

    /// The next poll, after much less than the broker's patience.
    async fn polled(reading: &mut Reading<Sent>) -> Option<Result<(), axum::BoxError>> {
        let next = poll_fn(|cx| Pin::new(&mut *reading).poll_frame(cx)).await;
        next.map(|frame| frame.map(drop))
    }

    #[tokio::test]
    async fn who_takes_very_long_is_refused_where_room_is_short() {
        let room = Room::new(2 * REQUEST_BYTES_MAX);
        let large = message(12 << 20);
        let mut other = reading(&room, sent(&large[..9 << 20], 1 << 20, false), SINGLE);
        assert!(read(&mut other).1.is_none(), "nobody is in its way");
        // A part of it came, or all but its end; then a little, as part of it or as messages of their own.
        for bytes in [1 << 17, large.len()] {
            let mut slow = reading(&room, sent(&large[..bytes], 1 << 16, false), SINGLE);
            slow.patience = |_| Duration::from_millis(1);
            assert!(read(&mut slow).1.is_none());
            let refused = loop {
                slow.body.0.push_back(Bytes::from_static(&[0; PREFIX]));
                assert!(polled(&mut slow).await.expect("it goes on").is_ok());
                if let (_, ended @ Some(_)) = read(&mut slow) {
                    break ended;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            assert!(is_refused(refused));
        }
        drop(other);
        let mut slow = reading(&room, sent(&large[..1 << 17], 1_000, false), SINGLE);
        slow.patience = |_| Duration::from_millis(1);
        assert!(read(&mut slow).1.is_none());
        let waiting = tokio::time::timeout(Duration::from_millis(20), polled(&mut slow)).await;
        assert!(waiting.is_err(), "nobody needs its room");
        assert_eq!(patience(12 << 20), Duration::from_secs(30 + 96));
    }

    #[test]
    fn consumers_have_a_room_of_their_own() {
        let rooms = Rooms::new(32 << 20);
        let of = |path| rooms.of(path).map(|(room, is_stream)| (room.bytes() >> 20, is_stream));
        assert_eq!(of("/qbroker.v1.ConsumerService/Settle"), Some((32, SINGLE)));
        assert_eq!(of("/qbroker.v1.ConsumerService/Consume"), Some((32, STREAM)));
        assert_eq!(of("/qbroker.v1.PublisherService/Publish"), Some((128, SINGLE)));
        assert_eq!(of("/qbroker.v1.PublisherService/PublishStream"), Some((128, STREAM)));
        assert_eq!(of("/grpc.health.v1.Health/Check"), None);
    }
}
