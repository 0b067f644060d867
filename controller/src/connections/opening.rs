//! A connection that must begin to speak HTTP/2 within ten seconds.
//!
//! HTTP/2 begins with fixed words (the preface), which the server reads before it asks the other end for signs of life. Until
//! they have come, with the head of the first frame behind them, this deadline stands in for those; afterwards a connection
//! stays for as long as pings are answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::room::Place;

/// How long the beginning may take.
const WITHIN: Duration = Duration::from_secs(10);

/// The preface, and the head of a frame.
const BEGINNING: usize = 24 + 9;

/// A connection with its place.
#[derive(Debug)]
pub(crate) struct Opening<S = TcpStream> {
    stream: S,
    /// Until it has begun: the bytes that are missing, and when it is given up.
    missing: Option<(usize, Pin<Box<Sleep>>)>,
    _place: Option<Place>,
}

impl<S> Opening<S> {
    pub(super) fn new(stream: S, place: Option<Place>) -> Self {
        Self { stream, missing: Some((BEGINNING, Box::pin(sleep(WITHIN)))), _place: place }
    }
}

impl Connected for Opening {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some((missing, deadline)) = &mut this.missing else { return read };
        if read.is_ready() {
            *missing = missing.saturating_sub(buffer.filled().len() - before);
            if *missing == 0 {
                this.missing = None;
                return read;
            }
        }
        // Also when something has come: a byte now and then is no beginning.
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_a_byte_now_and_then_is_closed_after_ten_seconds() {
        for every in [Duration::from_secs(1), Duration::from_secs(3600)] {
            let (mut client, server) = duplex(100);
            tokio::spawn(async move {
                loop {
                    sleep(every).await;
                    let _gone = client.write_all(b"P").await;
                }
            });
            let begun = Instant::now();
            let mut server = Opening::new(server, None);
            let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 10), "{every:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_is_not_hurried() {
        let (mut client, server) = duplex(100);
        client.write_all(&[0; BEGINNING]).await.unwrap();
        tokio::spawn(async move {
            sleep(WITHIN * 100).await;
            client.write_all(b"more").await.unwrap();
        });
        let mut read = Vec::new();
        Opening::new(server, None).read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), BEGINNING + 4);
    }
}
