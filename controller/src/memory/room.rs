//! The room for messages of this process, and the layer that gives it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::Service;

use super::metered::Metered;

/// Room in KiB for calls and for the streams of agents: neither waits for the other.
const CALLS: usize = 64 * 1024;
const STREAMS: usize = 64 * 1024;

/// What a message takes for each of its bytes while it is worked on: as it came, and as what it says.
const OF_CALL: usize = 2;
const OF_STREAM: usize = 8;

/// The path of the agents' streams.
const WORK: &str = "/dunlin.v1.AgentService/Work";

/// The room for messages. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self { calls: Arc::new(Semaphore::new(CALLS)), streams: Arc::new(Semaphore::new(STREAMS)) }
    }
}

/// How a request takes room.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    pub(super) room: Arc<Semaphore>,
    /// All of it, in KiB.
    pub(super) all: usize,
    /// What a message takes for each of its bytes.
    pub(super) for_each_byte: usize,
    /// True where whoever asks for the next message is done with the one before.
    pub(super) one_by_one: bool,
}

impl Taking {
    /// Waits until there is room for a message.
    pub(super) fn take(&self, bytes: usize) -> BoxFuture<'static, Option<OwnedSemaphorePermit>> {
        // What is longer than all room is refused by its limit.
        let kib = (bytes.saturating_mul(self.for_each_byte) / 1024 + 1).min(self.all);
        let room = Arc::clone(&self.room);
        // It is never closed.
        async move { room.acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX)).await.ok() }.boxed()
    }
}

/// The room that a request has taken. It is held by its body, by whoever works on its answer, and by the answer until it is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Taken {
    /// In the place of what was taken before.
    pub(crate) fn set(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

/// The body of an answer.
pub(crate) struct Held<R> {
    body: R,
    _taken: Taken,
}

impl<R: http_body::Body + Unpin> http_body::Body for Held<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives requests their room.
#[derive(Clone, Debug)]
pub(crate) struct Giving<S> {
    inner: S,
    room: Room,
}

/// The layer that does.
#[derive(Clone, Debug)]
pub(crate) struct Layer(Room);

/// The layer that gives requests their room.
pub(crate) fn layer(room: Room) -> Layer {
    Layer(room)
}

impl<S> tower::Layer<S> for Layer {
    type Service = Giving<S>;

    fn layer(&self, inner: S) -> Giving<S> {
        Giving { inner, room: self.0.clone() }
    }
}

impl<S, R> Service<Request<Body>> for Giving<S>
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<Held<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let taking = if request.uri().path() == WORK {
            let room = Arc::clone(&self.room.streams);
            Taking { room, all: STREAMS, for_each_byte: OF_STREAM, one_by_one: true }
        } else {
            let room = Arc::clone(&self.room.calls);
            Taking { room, all: CALLS, for_each_byte: OF_CALL, one_by_one: false }
        };
        let taken = Taken::default();
        let mut request = request.map(|body| Body::new(Metered::new(body, taking, taken.clone())));
        request.extensions_mut().insert(taken.clone());
        let answering = self.inner.call(request);
        async move { Ok(answering.await?.map(|body| Held { body, _taken: taken })) }.boxed()
    }
}
