//! The floor's server, a process of its own as the broker is.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::log::{Entry, Log, Stopped};
use super::stored::Stored;
use super::v1::floor_service_server::{FloorService, FloorServiceServer};
use super::v1::{
    ConsumeRequest, ConsumeResponse, Delivery, OutgoingMessage, PublishRequest, PublishResponse,
};
use super::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES};

/// What the floor's server is started with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FloorArgs {
    /// An empty folder for its files.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Bytes of the messages that it hands out.
    #[arg(long)]
    pub(crate) payload: usize,
}

/// What the server's log says, before its address, when it is ready.
pub(super) const READY: &str = "listening on ";

/// Serves on a free port of loopback until stdin ends; says the address when it is ready.
pub(crate) async fn serve(args: FloorArgs) -> anyhow::Result<()> {
    let log = Log::create(&args.dir.join("log")).context("cannot make the floor's log")?;
    let stored = Stored::create(&args.dir.join("stored"), args.payload)
        .context("cannot make the floor's stored messages")?;
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).context("cannot listen")?;
    writeln!(std::io::stderr(), "{READY}{}", incoming.local_addr()?)?;
    let service = FloorServiceServer::new(Floor { log, stored })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let serving = Server::builder()
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .add_service(service)
        .serve_with_incoming(incoming.with_nodelay(Some(true)));
    tokio::select! {
        served = serving => served.context("the floor's server has failed"),
        () = end_of_stdin() => Ok(()),
    }
}

/// The benchmark holds the other end: whichever way it ends, its server does not outlive it.
async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    let mut byte = [0];
    while let Ok(1) = stdin.read(&mut byte).await {}
}

#[derive(Debug)]
struct Floor {
    log: Log,
    stored: Stored,
}

type Responses<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl FloorService for Floor {
    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let messages = payloads(request.into_inner().messages)?;
        self.log.store(messages).await?;
        Ok(Response::new(PublishResponse { through_batch_id: 0 }))
    }

    type PublishStreamStream = Responses<PublishResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (responses, stream) = mpsc::channel(RESPONSES_QUEUED);
        let (appended, positions) = mpsc::unbounded_channel();
        let confirm = |through_batch_id| PublishResponse { through_batch_id };
        tokio::spawn(answer(self.log.clone(), positions, responses.clone(), confirm));
        let reading = read_batches(request.into_inner(), self.log.clone(), appended);
        tokio::spawn(end_with_error(reading, responses));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type ConsumeStream = Responses<ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (responses, stream) = mpsc::channel(RESPONSES_QUEUED);
        let (appended, positions) = mpsc::unbounded_channel();
        let answers = |acks_stored| ConsumeResponse { acks_stored, deliveries: Vec::new() };
        tokio::spawn(answer(self.log.clone(), positions, responses.clone(), answers));
        let consumer = Consumer {
            log: self.log.clone(),
            stored: self.stored.clone(),
            responses: responses.clone(),
            appended,
            room: 0,
            batch: 0,
            blocks: 0,
            acks: 0,
        };
        tokio::spawn(end_with_error(consumer.run(request.into_inner()), responses));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Responses made and not yet taken by the transport; more would only be memory.
const RESPONSES_QUEUED: usize = 64;

/// A position in the log, and what to answer once it is on disk.
type Appended = mpsc::UnboundedSender<(u64, u64)>;

async fn read_batches(
    mut batches: Streaming<PublishRequest>,
    log: Log,
    appended: Appended,
) -> Result<(), Status> {
    while let Some(batch) = batches.message().await? {
        let position = log.append(payloads(batch.messages)?);
        // Refused only when the answering task has ended, with the client or with the log.
        appended.send((position, batch.batch_id)).map_err(|_| Status::from(Stopped))?;
    }
    Ok(())
}

fn payloads(messages: Vec<OutgoingMessage>) -> Result<Entry, Status> {
    if messages.is_empty() {
        return Err(Status::invalid_argument("a batch without messages"));
    }
    Ok(Entry::Messages(messages.into_iter().map(|message| message.payload).collect()))
}

/// Answers what has become durable, one response for all of it.
async fn answer<T>(
    mut log: Log,
    mut positions: mpsc::UnboundedReceiver<(u64, u64)>,
    responses: mpsc::Sender<Result<T, Status>>,
    response: impl Fn(u64) -> T,
) {
    let mut next = positions.recv().await;
    while let Some((position, mut number)) = next {
        let Ok(durable) = log.durable(position).await else {
            responses.send(Err(Stopped.into())).await.ok();
            return;
        };
        next = loop {
            match positions.try_recv() {
                Ok((position, later)) if position <= durable => number = later,
                Ok(beyond) => break Some(beyond),
                Err(_) => break None,
            }
        };
        if responses.send(Ok(response(number))).await.is_err() {
            return;
        }
        if next.is_none() {
            next = positions.recv().await;
        }
    }
}

/// Tells the client why a stream ended, where it did not end it itself.
async fn end_with_error<T>(
    reading: impl Future<Output = Result<(), Status>>,
    responses: mpsc::Sender<Result<T, Status>>,
) {
    if let Err(status) = reading.await {
        // Nobody is left to be told where the client has gone away.
        responses.send(Err(status)).await.ok();
    }
}

/// One consume stream.
#[derive(Debug)]
struct Consumer {
    log: Log,
    stored: Stored,
    responses: mpsc::Sender<Result<ConsumeResponse, Status>>,
    appended: Appended,
    /// Messages that may be sent now.
    room: usize,
    /// Messages in one response; none where it only acks.
    batch: usize,
    /// Blocks sent so far.
    blocks: u64,
    /// Acks received so far.
    acks: u64,
}

impl Consumer {
    async fn run(mut self, mut requests: Streaming<ConsumeRequest>) -> Result<(), Status> {
        while let Some(request) = requests.message().await? {
            if 0 < request.window {
                self.room += request.window as usize;
                // Several are on their way at a time, however small the window.
                self.batch = self.stored.batch().min(self.room.div_ceil(4));
            }
            if !request.acked_tags.is_empty() {
                self.room += request.acked_tags.len();
                self.acks += request.acked_tags.len() as u64;
                let position = self.log.append(Entry::Acks(request.acked_tags));
                let appended = self.appended.send((position, self.acks));
                appended.map_err(|_| Status::from(Stopped))?;
            }
            while 0 < self.batch && self.batch <= self.room {
                self.deliver().await?;
            }
        }
        Ok(())
    }

    async fn deliver(&mut self) -> Result<(), Status> {
        let payloads = self.stored.read_block(self.blocks, self.batch);
        let payloads = payloads.map_err(|error| Status::data_loss(error.to_string()))?;
        let first_tag = self.blocks * self.batch as u64 + 1;
        let deliveries = (first_tag..).zip(payloads).map(|(tag, payload)| Delivery {
            tag,
            message_id: format!("q.{tag}"),
            payload,
            attempt: 1,
        });
        let response = ConsumeResponse { deliveries: deliveries.collect(), acks_stored: 0 };
        self.blocks += 1;
        self.room -= self.batch;
        let sent = self.responses.send(Ok(response)).await;
        sent.map_err(|_| Status::cancelled("the client has gone away"))
    }
}

impl From<Stopped> for Status {
    fn from(_: Stopped) -> Self {
        Self::data_loss("the floor's log has stopped; its server's stderr says why")
    }
}
