//! Keeps a publisher's stream open: takes answers off it, opens it again when it breaks.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use qbroker_proto::v1::publish_stream_response::Kind;
use qbroker_proto::v1::{PublishStreamRequest, PublishStreamResponse};
use tokio::sync::oneshot;
use tonic::Streaming;
use tracing::{info, warn};

use super::outbox::{Next, Outbox};
use crate::backoff::Backoff;
use crate::connection::Client;
use crate::error::{Error, Reason};
use crate::stream::{self, Outbound};

const PATH: &str = "/qbroker.v1.PublisherService/PublishStream";

/// What a publisher's handles, its stream and its driver share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) outbox: Outbox,
    /// Of the present stream.
    generation: u64,
    /// Woken when there is something to send.
    sender: Option<Waker>,
    /// Nobody holds the publisher any more.
    abandoned: bool,
    /// Why the latest stream ended.
    last_error: Option<Error>,
}

impl Shared {
    pub(super) fn new(outbox: Outbox) -> Arc<Self> {
        let state =
            State { outbox, generation: 0, sender: None, abandoned: false, last_error: None };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Changes the outbox and lets the stream send what that made ready.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state.outbox);
        let sender = state.sender.take();
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
        result
    }

    /// The last handle is gone: what was taken in is still sent while the broker is there.
    pub(super) fn abandon(&self) {
        self.state.lock().abandoned = true;
        self.change(Outbox::close);
    }

    fn begin_stream(&self) -> u64 {
        let mut state = self.state.lock();
        state.outbox.begin_stream();
        state.generation += 1;
        state.generation
    }

    /// Why there is no stream, where there was a try.
    pub(super) fn last_error(&self) -> Option<Error> {
        self.state.lock().last_error.clone()
    }

    fn note(&self, error: Error) {
        self.state.lock().last_error = Some(error);
    }

    fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }
}

impl Outbound for Shared {
    type Request = PublishStreamRequest;

    fn poll_request(
        &self,
        generation: u64,
        cx: &Context<'_>,
    ) -> Poll<Option<Arc<PublishStreamRequest>>> {
        let mut state = self.state.lock();
        if state.generation != generation {
            return Poll::Ready(None);
        }
        match state.outbox.next() {
            Next::Send(request) => Poll::Ready(Some(request)),
            Next::End => Poll::Ready(None),
            Next::Wait => {
                state.sender = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Runs until the publisher is closed and all is answered, or something cannot be mended.
///
/// `opened` is told when the first stream is open.
pub(super) async fn run(client: Client, shared: Arc<Shared>, opened: oneshot::Sender<()>) {
    let mut backoff = client.backoff();
    let mut opened = Some(opened);
    loop {
        let ended = run_stream(&client, &shared, &mut opened, &mut backoff).await;
        let Err(error) = ended else { return };
        match After::of(&error) {
            After::Retry if !shared.is_abandoned() => {}
            After::Retry | After::End => {
                shared.change(|outbox| outbox.fail(&error));
                return;
            }
            After::FreshProducer => {
                warn!(%error, "the broker forgot the producer; its unanswered batches are unknown");
                shared.change(|outbox| outbox.producer_forgotten(&error.to_string()));
            }
        }
        let delay = backoff.next_delay(error.retry_delay());
        info!(%error, ?delay, "the publish stream ended; it will be opened again");
        shared.note(error);
        tokio::time::sleep(delay).await;
    }
}

/// What to do about a stream that ended.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Retry,
    FreshProducer,
    End,
}

impl After {
    fn of(error: &Error) -> Self {
        match error {
            Error::Disconnected(_) | Error::TimedOut(_) => Self::Retry,
            Error::Refused(refusal) if refusal.reason == Reason::ProducerUnknown => {
                Self::FreshProducer
            }
            Error::Refused(refusal) if refusal.retryable => Self::Retry,
            Error::Refused(_)
            | Error::Closed(_)
            | Error::OutcomeUnknown(_)
            | Error::LeaseLost(_)
            | Error::Protocol(_)
            | Error::Option(_) => Self::End,
        }
    }
}

/// One stream, from its opening to its end; `Ok` where it ended because all was done.
async fn run_stream(
    client: &Client,
    shared: &Arc<Shared>,
    opened: &mut Option<oneshot::Sender<()>>,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let ended = async {
        let mut responses = open(client, shared).await?;
        backoff.reset();
        if let Some(opened) = opened.take() {
            // Whoever waited for it may have given up.
            opened.send(()).ok();
        }
        while let Some(response) = responses.message().await? {
            take(shared, response)?;
        }
        Ok(())
    }
    .await;
    shared.change(|outbox| {
        outbox.end_stream();
        match ended {
            Ok(()) if outbox.is_done() => Ok(()),
            Ok(()) => Err(Error::Disconnected("the broker ended the stream".to_owned())),
            Err(error) => Err(error),
        }
    })
}

/// Opens a stream and waits for `PublishOpened`.
async fn open(
    client: &Client,
    shared: &Arc<Shared>,
) -> Result<Streaming<PublishStreamResponse>, Error> {
    let timeout = client.request_timeout();
    let opening = async {
        let generation = shared.begin_stream();
        let mut responses: Streaming<PublishStreamResponse> =
            stream::open(client.channel(), PATH, Arc::clone(shared), generation).await?;
        match responses.message().await?.and_then(|response| response.kind) {
            Some(Kind::Opened(opened)) => shared.change(|outbox| outbox.opened(opened))?,
            Some(Kind::Confirmed(_)) => {
                return Err(Error::Protocol("a confirmation came before PublishOpened".to_owned()));
            }
            None => {
                return Err(Error::Disconnected(
                    "the stream ended before PublishOpened".to_owned(),
                ));
            }
        }
        Ok(responses)
    };
    tokio::time::timeout(timeout, opening).await.unwrap_or(Err(Error::TimedOut(timeout)))
}

fn take(shared: &Shared, response: PublishStreamResponse) -> Result<(), Error> {
    match response.kind {
        Some(Kind::Confirmed(answers)) => shared.change(|outbox| outbox.answered(answers)),
        Some(Kind::Opened(_)) => {
            Err(Error::Protocol("PublishOpened came a second time".to_owned()))
        }
        // Something of a newer broker.
        None => Ok(()),
    }
}
