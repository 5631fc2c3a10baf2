//! Bidirectional streams whose requests are taken from shared state when the connection has room.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use qbroker_proto::codec::encode;
use tokio_stream::Stream;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstDecoder;

use crate::connection::{Channel, MESSAGE_BYTES_MAX};

/// What a stream's requests are taken from.
///
/// HTTP/2 asks when it has room, so what is offered meanwhile piles up and leaves in one piece: that
/// is all the batching there is, and it needs no timer.
pub(crate) trait Outbound: Send + Sync + 'static {
    type Request: Message + 'static;

    /// The next request of the stream numbered `generation`; `None` to half-close it.
    ///
    /// An older stream than the present one must get `None`: its requests would be lost.
    fn poll_request(&self, generation: u64, cx: &Context<'_>) -> Poll<Option<Arc<Self::Request>>>;
}

/// Opens the stream numbered `generation` and waits for the server to take it.
///
/// # Errors
///
/// The status of a server that refused it, or of the transport.
pub(crate) async fn open<O, R>(
    channel: Channel,
    path: &'static str,
    outbound: Arc<O>,
    generation: u64,
) -> Result<Streaming<R>, Status>
where
    O: Outbound,
    R: Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let requests = Request::new(Requests { outbound, generation });
    let codec = SharedCodec::<O::Request, R>(PhantomData);
    let response = grpc.streaming(requests, PathAndQuery::from_static(path), codec).await?;
    Ok(response.into_inner())
}

struct Requests<O> {
    outbound: Arc<O>,
    generation: u64,
}

impl<O: Outbound> Stream for Requests<O> {
    type Item = Arc<O::Request>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outbound.poll_request(self.generation, cx)
    }
}

/// Encodes requests that are kept until they are answered, without cloning them.
struct SharedCodec<T, R>(PhantomData<(T, R)>);

impl<T, R> Codec for SharedCodec<T, R>
where
    T: Message + 'static,
    R: Message + Default + Send + 'static,
{
    type Encode = Arc<T>;
    type Decode = R;
    type Encoder = SharedEncoder<T>;
    type Decoder = ProstDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        SharedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(buffers())
    }
}

/// Encoded requests leave in pieces of about 128 KiB: tonic's 32 KiB costs a system call for each
/// batch of publishes, and much more would hold a connection's other streams up.
fn buffers() -> BufferSettings {
    BufferSettings::new(64 * 1024, 128 * 1024)
}

struct SharedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SharedEncoder<T> {
    type Item = Arc<T>;
    type Error = Status;

    fn encode(&mut self, item: Arc<T>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        encode(&*item, buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
