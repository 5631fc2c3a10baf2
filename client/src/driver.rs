//! Keeps a stream open: takes what it brings, opens it again when it breaks.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot, watch};
use tonic::Streaming;
use tracing::info;

use crate::backoff::Backoff;
use crate::connection::Client;
use crate::error::Error;
use crate::stream::{self, Outbound};

/// One side of a conversation on a stream, without the stream: what there is to send and what comes
/// of the answers. It outlives streams; each new one takes up where the one before broke.
pub(crate) trait Machine: fmt::Debug + Send + 'static {
    /// The rpc.
    const PATH: &'static str;
    type Request: Message + 'static;
    type Response: Message + Default + Send + Sync + 'static;

    /// A new stream takes the place of the one before.
    fn begin_stream(&mut self);
    /// What the present stream should send.
    fn next(&mut self) -> Next<Self::Request>;
    /// The stream asks for more, so HTTP/2 has taken what it was given before it last had to wait. Whether
    /// somebody waits to hear of that.
    fn handed_on(&mut self) -> bool {
        false
    }
    /// Whether it is to be asked again at once, though it has nothing to send, so that it hears of that.
    fn wants_asking(&self) -> bool {
        false
    }
    /// Whether [`Machine::next`] would be anything but [`Next::Wait`].
    fn is_ready(&self) -> bool;
    /// The first response came.
    fn opened(&mut self, response: Self::Response) -> Result<(), Error>;
    /// Another response came.
    fn take(&mut self, response: Self::Response) -> Result<News, Error>;
    /// The stream ended; nothing goes out until the next one.
    fn end_stream(&mut self);
    /// Whether there is nothing left to do, so that the end of the stream was the end of the work.
    fn is_done(&self) -> bool;
    /// Whether another stream can mend what ended the last one, after what this changes for it.
    fn recover(&mut self, error: &Error) -> bool;
    /// Nobody holds the handle any more.
    fn abandon(&mut self);
    /// The last thing it hears: what was not answered, and what comes later, is answered with `error`.
    fn fail(&mut self, error: &Error);
    /// What ended everything, where something did.
    fn failure(&self) -> Option<&Error>;
}

/// What a stream should do next.
#[derive(Debug)]
pub(crate) enum Next<R> {
    Send(Arc<R>),
    /// Nothing now.
    Wait,
    /// Half-close: there is nothing left to say.
    End,
}

/// Whom a response concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Those who wait for answers; they are awake already.
    Answers,
    /// Those who wait for deliveries.
    Arrivals,
    /// Everybody.
    State,
}

/// A machine, its stream and those who wait for it.
#[derive(Debug)]
pub(crate) struct Shared<M> {
    state: Mutex<State<M>>,
    arrivals: Notify,
    news: Notify,
    sent_on: Notify,
}

#[derive(Debug)]
struct State<M> {
    machine: M,
    /// Of the present stream.
    generation: u64,
    /// Woken when there may be something to send.
    sender: Option<Waker>,
    /// Why the latest stream ended.
    last_error: Option<Error>,
    /// What ended the work before it was done.
    failure: Option<Error>,
}

impl<M: Machine> Shared<M> {
    fn new(machine: M) -> Arc<Self> {
        let state = State { machine, generation: 0, sender: None, last_error: None, failure: None };
        let (arrivals, news, sent_on) = (Notify::new(), Notify::new(), Notify::new());
        Arc::new(Self { state: Mutex::new(state), arrivals, news, sent_on })
    }

    /// Looks at the machine, or takes from it what needs no sending.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut M) -> T) -> T {
        look(&mut self.state.lock().machine)
    }

    /// Changes the machine and lets the stream send what that made ready.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut M) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state.machine);
        // Waking costs a turn of the whole connection: only for something.
        let sender = if state.machine.is_ready() { state.sender.take() } else { None };
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
        result
    }

    /// To be created before looking whether there are deliveries, and awaited if there are none.
    pub(crate) fn next_arrival(&self) -> Notified<'_> {
        self.arrivals.notified()
    }

    /// To be created before looking at the state, and awaited for its next change.
    pub(crate) fn next_news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// To be created before looking how far requests are, and awaited until HTTP/2 has taken more.
    pub(crate) fn next_sent_on(&self) -> Notified<'_> {
        self.sent_on.notified()
    }

    pub(crate) fn tell(&self, news: News) {
        match news {
            News::Answers => {}
            News::Arrivals => self.arrivals.notify_one(),
            News::State => {
                self.arrivals.notify_waiters();
                self.news.notify_waiters();
                self.sent_on.notify_waiters();
            }
        }
    }

    fn begin_stream(&self) -> u64 {
        let mut state = self.state.lock();
        state.machine.begin_stream();
        state.generation += 1;
        state.generation
    }

    fn last_error(&self) -> Option<Error> {
        self.state.lock().last_error.clone()
    }
}

impl<M: Machine> Outbound for Shared<M> {
    type Request = M::Request;

    fn poll_request(&self, generation: u64, cx: &Context<'_>) -> Poll<Option<Arc<M::Request>>> {
        let mut state = self.state.lock();
        if state.generation != generation {
            return Poll::Ready(None);
        }
        if state.machine.handed_on() {
            self.sent_on.notify_waiters();
        }
        match state.machine.next() {
            Next::Send(request) => Poll::Ready(Some(request)),
            Next::End => Poll::Ready(None),
            Next::Wait => {
                if state.machine.wants_asking() {
                    cx.waker().wake_by_ref();
                }
                state.sender = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Holds a machine whose stream a task of its own keeps open; the task ends some time after this.
#[derive(Debug)]
pub(crate) struct Handle<M: Machine> {
    pub(crate) shared: Arc<Shared<M>>,
    /// Closed when the task has ended.
    ended: watch::Receiver<()>,
}

impl<M: Machine> Handle<M> {
    /// Starts the task and waits until the first stream is open.
    ///
    /// # Errors
    ///
    /// What kept it from opening within the request timeout.
    pub(crate) async fn start(client: Client, machine: M) -> Result<Self, Error> {
        let (opened, is_opened) = oneshot::channel();
        let (running, ended) = watch::channel(());
        let timeout = client.request_timeout();
        let handle = Self { shared: Shared::new(machine), ended };
        let shared = Arc::clone(&handle.shared);
        tokio::spawn(async move {
            run(client, shared, opened).await;
            drop(running);
        });
        match tokio::time::timeout(timeout, is_opened).await {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(_)) => Err(handle.failure().expect("a task that ends early has failed")),
            Err(_) => Err(handle.shared.last_error().unwrap_or(Error::TimedOut(timeout))),
        }
    }

    /// Waits until the task has ended; what ended it before its work was done.
    pub(crate) async fn ended(&self) -> Result<(), Error> {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
        self.failure().map_or(Ok(()), Err)
    }

    fn failure(&self) -> Option<Error> {
        self.shared.state.lock().failure.clone()
    }
}

impl<M: Machine> Drop for Handle<M> {
    fn drop(&mut self) {
        self.shared.change(Machine::abandon);
        self.shared.tell(News::State);
    }
}

/// Runs until the machine is done or something cannot be mended.
///
/// `opened` is told when the first stream is open.
async fn run<M: Machine>(client: Client, shared: Arc<Shared<M>>, opened: oneshot::Sender<()>) {
    let mut backoff = client.backoff();
    let mut opened = Some(opened);
    let end = loop {
        let ended = run_stream(&client, &shared, &mut opened, &mut backoff).await;
        let Err(error) = ended else { break Error::Closed("its work was done".to_owned()) };
        if !shared.change(|machine| machine.recover(&error)) {
            shared.state.lock().failure = Some(error.clone());
            break error;
        }
        let delay = backoff.next_delay(error.retry_delay());
        info!(path = M::PATH, %error, ?delay, "a stream ended; it will be opened again");
        shared.state.lock().last_error = Some(error);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = done(&shared) => break Error::Closed("its work was done".to_owned()),
        }
    };
    shared.change(|machine| machine.fail(&end));
    shared.tell(News::State);
}

/// Waits until there is nothing left to do, so that no other stream is needed.
async fn done<M: Machine>(shared: &Shared<M>) {
    loop {
        let news = shared.next_news();
        if shared.look(|machine| machine.is_done()) {
            return;
        }
        news.await;
    }
}

/// One stream, from its opening to its end; `Ok` where it ended because all was done.
async fn run_stream<M: Machine>(
    client: &Client,
    shared: &Arc<Shared<M>>,
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
            let news = shared.change(|machine| machine.take(response))?;
            shared.tell(news);
        }
        Ok(())
    }
    .await;
    let ended = shared.change(|machine| {
        machine.end_stream();
        match ended {
            Ok(()) | Err(Error::Disconnected(_) | Error::TimedOut(_)) if machine.is_done() => {
                Ok(())
            }
            Ok(()) => Err(Error::Disconnected("the broker ended the stream".to_owned())),
            Err(error) => Err(client.met(error)),
        }
    });
    // Who waits for what this stream would have sent waits in vain.
    shared.tell(News::State);
    ended
}

/// Opens a stream and waits for its first response.
async fn open<M: Machine>(
    client: &Client,
    shared: &Arc<Shared<M>>,
) -> Result<Streaming<M::Response>, Error> {
    let timeout = client.request_timeout();
    let opening = async {
        let generation = shared.begin_stream();
        let mut responses: Streaming<M::Response> =
            stream::open(client.channel(), M::PATH, Arc::clone(shared), generation).await?;
        let Some(first) = responses.message().await? else {
            return Err(Error::Disconnected("the broker ended the stream at once".to_owned()));
        };
        shared.change(|machine| machine.opened(first))?;
        shared.tell(News::State);
        Ok(responses)
    };
    tokio::time::timeout(timeout, opening).await.unwrap_or(Err(Error::TimedOut(timeout)))
}
