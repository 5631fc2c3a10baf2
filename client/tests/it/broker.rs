//! A broker whose every word a test says: streams and calls arrive here, and the test answers them.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use qbroker_client::{Client, ClientBuilder};
use qbroker_proto::v1::{self, *};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::metadata::MetadataMap;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// Long enough for the slowest machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The broker. Dropping it, or [`Broker::crash`], cuts every connection.
pub(crate) struct Broker {
    address: SocketAddr,
    /// A runtime of its own, so that a crash takes the connections with it.
    runtime: Option<Runtime>,
    publishes: mpsc::UnboundedReceiver<PublishTalk>,
    consumes: mpsc::UnboundedReceiver<ConsumeTalk>,
    calls: mpsc::UnboundedReceiver<Call>,
    script: Script,
}

pub(crate) type PublishTalk = Talk<PublishStreamRequest, PublishStreamResponse>;
pub(crate) type ConsumeTalk = Talk<ConsumeRequest, ConsumeResponse>;

/// A stream that a client opened.
pub(crate) struct Talk<Q, R> {
    requests: Streaming<Q>,
    responses: mpsc::UnboundedSender<Result<R, Status>>,
    pub(crate) metadata: MetadataMap,
}

/// A single call that waits for its answer.
pub(crate) struct Call {
    pub(crate) request: Asked,
    pub(crate) metadata: MetadataMap,
    answer: oneshot::Sender<Result<Answer, Status>>,
}

/// What a single call asks.
#[derive(Debug)]
pub(crate) enum Asked {
    Publish(PublishRequest),
    Pull(PullRequest),
    Settle(SettleRequest),
    Extend(ExtendLeasesRequest),
    CreateQueue(CreateQueueRequest),
    GetQueue(GetQueueRequest),
    UpdateQueue(UpdateQueueRequest),
    ServerInfo(GetServerInfoRequest),
}

/// What a single call is answered.
pub(crate) enum Answer {
    Publish(PublishResponse),
    Pull(PullResponse),
    Settle(SettleResponse),
    Extend(ExtendLeasesResponse),
    CreateQueue(CreateQueueResponse),
    GetQueue(GetQueueResponse),
    UpdateQueue(UpdateQueueResponse),
    ServerInfo(GetServerInfoResponse),
}

#[derive(Clone)]
struct Script {
    publishes: mpsc::UnboundedSender<PublishTalk>,
    consumes: mpsc::UnboundedSender<ConsumeTalk>,
    calls: mpsc::UnboundedSender<Call>,
}

impl Broker {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    pub(crate) fn start_with(tls: Option<ServerTlsConfig>) -> Self {
        let (publishes, publish_talks) = mpsc::unbounded_channel();
        let (consumes, consume_talks) = mpsc::unbounded_channel();
        let (calls, asked) = mpsc::unbounded_channel();
        let mut broker = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            runtime: None,
            publishes: publish_talks,
            consumes: consume_talks,
            calls: asked,
            script: Script { publishes, consumes, calls },
        };
        broker.listen(tls);
        broker
    }

    /// Cuts every connection; nobody listens any more.
    pub(crate) fn crash(&mut self) {
        let runtime = self.runtime.take().unwrap();
        // A thread of its own: a runtime may not wait for another's end.
        std::thread::spawn(|| runtime.shutdown_timeout(PATIENCE)).join().unwrap();
    }

    /// Listens again, at the same address.
    pub(crate) fn restart(&mut self) {
        self.listen(None);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Options of a client that tries again at once.
    pub(crate) fn client_options(&self) -> ClientBuilder {
        Client::builder(self.url())
            .connections(1)
            .backoff(Duration::from_millis(1), Duration::from_millis(20))
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_options().connect().await.unwrap()
    }

    /// The next publish stream that a client opens.
    pub(crate) async fn publish_talk(&mut self) -> PublishTalk {
        soon(self.publishes.recv()).await.unwrap()
    }

    /// The next consume stream that a client opens.
    pub(crate) async fn consume_talk(&mut self) -> ConsumeTalk {
        soon(self.consumes.recv()).await.unwrap()
    }

    /// The next single call.
    pub(crate) async fn call(&mut self) -> Call {
        soon(self.calls.recv()).await.unwrap()
    }

    /// Whether no single call has come.
    pub(crate) fn is_quiet(&self) -> bool {
        self.calls.is_empty()
    }

    fn listen(&mut self, tls: Option<ServerTlsConfig>) {
        let listener = TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let script = self.script.clone();
        runtime.spawn(async move {
            let mut server = Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).unwrap();
            }
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let publisher = publisher_service_server::PublisherServiceServer::new(script.clone())
                .max_decoding_message_size(16 << 20);
            server
                .add_service(publisher)
                .add_service(consumer_service_server::ConsumerServiceServer::new(script.clone()))
                .add_service(admin_service_server::AdminServiceServer::new(script))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl<Q, R> Talk<Q, R> {
    /// What the client says next; `None` where it has half-closed.
    pub(crate) async fn hear(&mut self) -> Option<Q> {
        soon(self.requests.message()).await.unwrap()
    }

    pub(crate) fn say(&self, response: R) {
        self.responses.send(Ok(response)).ok().unwrap();
    }

    /// Ends the stream with a status.
    pub(crate) fn fail(self, status: Status) {
        self.responses.send(Err(status)).ok().unwrap();
    }
}

impl PublishTalk {
    pub(crate) async fn hear_open(&mut self) -> PublishOpen {
        match self.hear().await.unwrap().kind.unwrap() {
            publish_stream_request::Kind::Open(open) => open,
            other @ publish_stream_request::Kind::Batch(_) => panic!("{other:?}"),
        }
    }

    pub(crate) async fn hear_batch(&mut self) -> PublishBatch {
        match self.hear().await.unwrap().kind.unwrap() {
            publish_stream_request::Kind::Batch(batch) => batch,
            other @ publish_stream_request::Kind::Open(_) => panic!("{other:?}"),
        }
    }

    pub(crate) fn say_opened(&self, missed: BatchesConfirmed) {
        self.say_opened_with(missed, 1000);
    }

    pub(crate) fn say_opened_with(&self, missed: BatchesConfirmed, max_unconfirmed_batches: i32) {
        let opened = PublishOpened {
            epoch: 7,
            missed: Some(missed),
            max_unconfirmed_bytes: 1 << 30,
            max_unconfirmed_batches,
        };
        let kind = Some(publish_stream_response::Kind::Opened(opened));
        self.say(PublishStreamResponse { kind });
    }

    pub(crate) fn say_confirmed(&self, confirmed: BatchesConfirmed) {
        let kind = Some(publish_stream_response::Kind::Confirmed(confirmed));
        self.say(PublishStreamResponse { kind });
    }
}

impl ConsumeTalk {
    pub(crate) async fn hear_kind(&mut self) -> consume_request::Kind {
        self.hear().await.unwrap().kind.unwrap()
    }

    pub(crate) async fn hear_open(&mut self) -> ConsumeOpen {
        match self.hear_kind().await {
            consume_request::Kind::Open(open) => open,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn hear_settle(&mut self) -> SettleRequest {
        match self.hear_kind().await {
            consume_request::Kind::Settle(settle) => settle,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn say_kind(&self, kind: consume_response::Kind) {
        self.say(ConsumeResponse { kind: Some(kind) });
    }

    pub(crate) fn say_opened(&self, consumer_id: &str, resumed: bool, lost: &[&'static str]) {
        self.say_kind(consume_response::Kind::Opened(ConsumeOpened {
            consumer_id: consumer_id.to_owned(),
            resumed,
            lost_lease_tokens: tokens(lost),
            ..ConsumeOpened::default()
        }));
    }

    /// Delivers messages whose tokens and payloads are these.
    pub(crate) fn deliver(&self, names: &[&'static str]) {
        let deliveries = names.iter().map(|name| delivery(name)).collect();
        self.say_kind(consume_response::Kind::Deliveries(DeliveryBatch {
            deliveries,
            ..DeliveryBatch::default()
        }));
    }

    pub(crate) fn say_settled(&self, call_id: i64, failures: &[(&'static str, &str)]) {
        self.say_kind(consume_response::Kind::Settled(settled(call_id, failures)));
    }
}

impl Call {
    pub(crate) fn answer(self, answer: Answer) {
        self.answer.send(Ok(answer)).ok().unwrap();
    }

    pub(crate) fn fail(self, status: Status) {
        self.answer.send(Err(status)).ok().unwrap();
    }
}

pub(crate) fn delivery(name: &'static str) -> Delivery {
    Delivery {
        lease_token: name.into(),
        message: Some(Message { payload: name.into(), ..Message::default() }),
        attempt: 1,
        ..Delivery::default()
    }
}

pub(crate) fn settled(call_id: i64, failures: &[(&'static str, &str)]) -> SettleResponse {
    let failure = |(token, reason): &(&'static str, &str)| SettleFailure {
        lease_token: (*token).into(),
        error: Some(ItemError { reason: (*reason).to_owned(), ..ItemError::default() }),
    };
    SettleResponse { call_id, failures: failures.iter().map(failure).collect() }
}

pub(crate) fn tokens(names: &[&'static str]) -> Vec<bytes::Bytes> {
    names.iter().map(|name| (*name).into()).collect()
}

/// Confirms batches up to `through` with these first sequences.
pub(crate) fn stored(through: i64, first_sequences: &[i64]) -> BatchesConfirmed {
    BatchesConfirmed {
        through_batch_id: through,
        first_sequences: first_sequences.to_vec(),
        ..BatchesConfirmed::default()
    }
}

/// A status as the broker makes it, with its reason in the trailer.
pub(crate) fn refusal(code: tonic::Code, reason: &str) -> Status {
    let mut status = Status::new(code, "scripted");
    status.metadata_mut().insert("qbroker-reason", reason.parse().unwrap());
    status
}

/// Waits, and fails the test rather than hang it.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this should have happened by now")
}

type Responses<R> = UnboundedReceiverStream<Result<R, Status>>;

fn talk<Q, R>(request: Request<Streaming<Q>>) -> (Talk<Q, R>, Response<Responses<R>>) {
    let (responses, outgoing) = mpsc::unbounded_channel();
    let metadata = request.metadata().clone();
    let talk = Talk { requests: request.into_inner(), responses, metadata };
    (talk, Response::new(UnboundedReceiverStream::new(outgoing)))
}

impl Script {
    async fn ask(&self, metadata: MetadataMap, request: Asked) -> Result<Answer, Status> {
        let (answer, answered) = oneshot::channel();
        self.calls.send(Call { request, metadata, answer }).ok();
        answered.await.unwrap_or_else(|_| Err(Status::unavailable("the script dropped the call")))
    }
}

/// What `async_trait` makes of an `async fn`; it does not look into macros.
type Answering<'t, R> =
    std::pin::Pin<Box<dyn Future<Output = Result<Response<R>, Status>> + Send + 't>>;

/// A single call that the script answers.
macro_rules! scripted {
    ($($method:ident $kind:ident $request:ident $response:ident,)*) => {
        $(fn $method<'a, 't>(
            &'a self,
            request: Request<v1::$request>,
        ) -> Answering<'t, v1::$response>
        where
            'a: 't,
        {
            Box::pin(async move {
                let (metadata, _, request) = request.into_parts();
                match self.ask(metadata, Asked::$kind(request)).await? {
                    Answer::$kind(response) => Ok(Response::new(response)),
                    _ => panic!("the script gave {} another call's answer", stringify!($method)),
                }
            })
        })*
    };
}

/// A single call that no test makes.
macro_rules! unused {
    ($($method:ident $request:ident $response:ident,)*) => {
        $(fn $method<'a, 't>(
            &'a self,
            _: Request<v1::$request>,
        ) -> Answering<'t, v1::$response>
        where
            'a: 't,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($method))) })
        })*
    };
}

#[tonic::async_trait]
impl publisher_service_server::PublisherService for Script {
    scripted! { publish Publish PublishRequest PublishResponse, }

    type PublishStreamStream = Responses<PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (talk, response) = talk(request);
        self.publishes.send(talk).ok();
        Ok(response)
    }
}

#[tonic::async_trait]
impl consumer_service_server::ConsumerService for Script {
    type ConsumeStream = Responses<ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (talk, response) = talk(request);
        self.consumes.send(talk).ok();
        Ok(response)
    }

    scripted! {
        pull Pull PullRequest PullResponse,
        settle Settle SettleRequest SettleResponse,
        extend_leases Extend ExtendLeasesRequest ExtendLeasesResponse,
    }
}

#[tonic::async_trait]
impl admin_service_server::AdminService for Script {
    scripted! {
        create_queue CreateQueue CreateQueueRequest CreateQueueResponse,
        get_queue GetQueue GetQueueRequest GetQueueResponse,
        update_queue UpdateQueue UpdateQueueRequest UpdateQueueResponse,
        get_server_info ServerInfo GetServerInfoRequest GetServerInfoResponse,
    }

    unused! {
        list_queues ListQueuesRequest ListQueuesResponse,
        delete_queue DeleteQueueRequest DeleteQueueResponse,
        pause_queue PauseQueueRequest PauseQueueResponse,
        resume_queue ResumeQueueRequest ResumeQueueResponse,
        list_messages ListMessagesRequest ListMessagesResponse,
        get_message GetMessageRequest GetMessageResponse,
        update_messages UpdateMessagesRequest UpdateMessagesResponse,
        delete_messages_by_id DeleteMessagesByIdRequest DeleteMessagesByIdResponse,
        purge_queue PurgeQueueRequest PurgeQueueResponse,
        wait_queue_empty WaitQueueEmptyRequest WaitQueueEmptyResponse,
        delete_messages DeleteMessagesRequest DeleteMessagesResponse,
        move_messages MoveMessagesRequest MoveMessagesResponse,
        list_consumers ListConsumersRequest ListConsumersResponse,
        disconnect_consumer DisconnectConsumerRequest DisconnectConsumerResponse,
        list_operations ListOperationsRequest ListOperationsResponse,
        get_operation GetOperationRequest GetOperationResponse,
        cancel_operation CancelOperationRequest CancelOperationResponse,
        trace_message TraceMessageRequest TraceMessageResponse,
        find_messages FindMessagesRequest FindMessagesResponse,
    }

    type WatchEventsStream = Responses<WatchEventsResponse>;

    async fn watch_events(
        &self,
        _: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(Status::unimplemented("watch_events"))
    }

    type WatchStatsStream = Responses<WatchStatsResponse>;

    async fn watch_stats(
        &self,
        _: Request<WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        Err(Status::unimplemented("watch_stats"))
    }
}
