//! The codec of all services: that of prost, behind a [look](crate::measure) at what a request would take.

use std::marker::PhantomData;

use prost::Name;
use prost::bytes::Buf;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::measure::measure;
use crate::status;

/// The codec.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Name + Send + 'static,
    U: Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Measured<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Measured(ProstCodec::<T, U>::raw_decoder(BufferSettings::default()))
    }
}

/// Decodes what is not too much. Answers of a controller are believed.
#[derive(Debug)]
pub struct Measured<U>(ProstDecoder<U>);

impl<U: Name + Default> Decoder for Measured<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // All requests are called so, which `buf lint` sees to.
        if U::NAME.ends_with("Request") {
            // The whole message lies in one piece.
            let bytes = buffer.chunk();
            if bytes.len() < buffer.remaining() {
                return Err(status::error(Code::Internal, "INTERNAL", "a message came in pieces"));
            }
            measure(&U::full_name(), bytes)
                .map_err(|error| status::error(Code::InvalidArgument, "TOO_MANY_ENTRIES", error.to_string()))?;
        }
        self.0.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
