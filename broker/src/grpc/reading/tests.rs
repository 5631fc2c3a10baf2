//! Room is taken for what came of a request, and given back when it is answered.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::{Body, Frame};

use super::body::patience;
use super::messages::{Messages, PREFIX};
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
