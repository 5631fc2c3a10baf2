//! Messages as gRPC carries them.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::EncodeBuf;
use tonic_prost::ProstDecoder;

/// The codec of this protocol's services. It does what [`tonic_prost::ProstCodec`] does, but makes
/// room for a message once: a batch is large, and a buffer that grows with it copies it several times.
#[derive(Debug, Default)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::default()
    }
}

/// Encodes messages.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        encode(&item, buffer);
        Ok(())
    }
}

/// Encodes a message that stays with its owner.
pub fn encode(message: &impl Message, buffer: &mut EncodeBuf<'_>) {
    buffer.reserve(message.encoded_len());
    message.encode_raw(buffer);
}
