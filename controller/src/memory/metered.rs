//! The body of a request, of which long messages are handed on only when there is room.
//!
//! A message of gRPC says its length in the five bytes before it. What comes behind them is left with HTTP/2 until there is room, and
//! its window keeps the client from sending more. Room is for whoever sends: a message that does not come in time loses it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body::Frame;
use prost::bytes::{Buf, Bytes};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use super::room::{Taken, Taking};

/// Messages up to this many bytes come without asking.
const SHORT: usize = 16 * 1024;

/// The bytes before a message: a flag and its length.
const HEAD: usize = 5;

/// How long a message may take once there is room for it.
const WITHIN: Duration = Duration::from_secs(60);

/// A body.
pub(super) struct Metered<B = Body> {
    inner: B,
    taking: Taking,
    taken: Taken,
    /// What has come and was not handed on.
    come: Bytes,
    /// What has come of the bytes before a message.
    head: Vec<u8>,
    /// What is missing of the message.
    missing: usize,
    waiting: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    until: Option<Pin<Box<Sleep>>>,
}

impl<B> Metered<B> {
    pub(super) fn new(inner: B, taking: Taking, taken: Taken) -> Self {
        let (come, head) = (Bytes::new(), Vec::with_capacity(HEAD));
        Self { inner, taking, taken, come, head, missing: 0, waiting: None, until: None }
    }

    /// Hands on what comes before the next message that needs room.
    fn pass(&mut self) -> Option<Bytes> {
        if self.missing > 0 {
            let part = self.come.split_to(self.missing.min(self.come.len()));
            self.missing -= part.len();
            if self.missing == 0 {
                self.until = None;
            }
            return Some(part);
        }
        let more = self.come.split_to((HEAD - self.head.len()).min(self.come.len()));
        self.head.extend_from_slice(&more);
        let mut length = self.head.get(1..HEAD)?;
        self.missing = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
        if self.missing > SHORT {
            self.taken.set(None);
            self.waiting = Some(self.taking.take(self.missing));
            return None;
        }
        Some(std::mem::take(&mut self.head).into())
    }
}

impl<B> http_body::Body for Metered<B>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(waiting) = &mut this.waiting {
                let permit = ready!(waiting.as_mut().poll(cx));
                this.waiting = None;
                this.taken.set(permit);
                this.until = Some(Box::pin(sleep(WITHIN)));
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.head).into()))));
            }
            if !this.come.is_empty() {
                match this.pass() {
                    Some(part) => return Poll::Ready(Some(Ok(Frame::data(part)))),
                    None => continue,
                }
            }
            if this.taking.one_by_one && this.missing == 0 && this.head.is_empty() {
                this.taken.set(None);
            }
            if let Some(until) = &mut this.until
                && until.as_mut().poll(cx).is_ready()
            {
                this.taken.set(None);
                let message =
                    format!("a message did not come within {} s; send it again, or a shorter one", WITHIN.as_secs());
                let late = dunlin_proto::status::error(Code::DeadlineExceeded, "MESSAGE_TOO_SLOW", message);
                return Poll::Ready(Some(Err(late)));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.come = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                // A head that is cut off is told as what it is.
                None if !this.head.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.head).into()))));
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.come.is_empty() && self.head.is_empty() && self.waiting.is_none() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::sync::Arc;

    use futures::poll;
    use http_body::Body as _;
    use tokio::sync::Semaphore;

    use super::*;

    const ALL: usize = 100;

    /// Frames that come, and then nothing more.
    struct Frames(VecDeque<Bytes>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.pop_front().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
        }
    }

    fn message(length: usize) -> Vec<u8> {
        let head = [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
        [head, vec![7; length]].concat()
    }

    fn body(bytes: &[u8], frame: usize, room: &Arc<Semaphore>) -> Metered<Frames> {
        let taking = Taking { room: Arc::clone(room), all: ALL, for_each_byte: 1, one_by_one: true };
        let frames = bytes.chunks(frame).map(Bytes::copy_from_slice).collect();
        Metered::new(Frames(frames), taking, Taken::default())
    }

    async fn next(body: &mut Metered<Frames>) -> Result<Bytes, Status> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.unwrap();
        Ok(frame?.into_data().unwrap())
    }

    async fn read(body: &mut Metered<Frames>, length: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < length {
            read.extend(next(body).await.unwrap());
        }
        read
    }

    #[tokio::test]
    async fn what_comes_is_what_was_sent_however_it_is_cut() {
        let room = Arc::new(Semaphore::new(ALL));
        let sent = [message(0), message(3), message(SHORT + 1), message(1), message(2 * SHORT)].concat();
        for frame in [1, 2, 7, 4096, usize::MAX] {
            assert!(read(&mut body(&sent, frame, &room), sent.len()).await == sent, "in frames of {frame}");
        }
    }

    #[tokio::test]
    async fn a_long_message_waits_until_others_are_worked_on() {
        let room = Arc::new(Semaphore::new(ALL));
        let long = message(80 * 1024);
        let (mut first, mut second) = (body(&long, 1000, &room), body(&long, 1000, &room));
        read(&mut first, long.len()).await;
        assert!(poll!(Box::pin(next(&mut second))).is_pending(), "there is no room for both");
        let short = message(SHORT);
        read(&mut body(&short, 1000, &room), short.len()).await;
        // Who asks for the next one is done with the first.
        assert!(poll!(Box::pin(next(&mut first))).is_pending());
        read(&mut second, long.len()).await;
        drop(second);
        assert_eq!(room.available_permits(), ALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_loses_its_room() {
        let room = Arc::new(Semaphore::new(ALL));
        let half = &message(80 * 1024)[..40 * 1024];
        let mut body = body(half, 1000, &room);
        read(&mut body, half.len()).await;
        assert_eq!(next(&mut body).await.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(room.available_permits(), ALL);
    }

    #[tokio::test]
    async fn a_message_that_is_longer_than_all_room_takes_all_of_it() {
        let room = Arc::new(Semaphore::new(ALL));
        let long = message(ALL * 2048);
        let mut body = body(&long, usize::MAX, &room);
        read(&mut body, long.len()).await;
        assert_eq!(room.available_permits(), 0);
    }
}
