//! The backend that a connection was told it has.
//!
//! A server names its process when a session begins, so that the client can cancel what it executes there. A pooler makes up
//! a number of its own, since the sessions behind it change. So a connection goes to a server itself exactly when the
//! number that it was told is that of `pg_backend_pid()`.
//!
//! The client library keeps the number to itself, but writes it into a request to cancel: that is let to a buffer, not to
//! the server.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// What begins every request to cancel: its length, and its code.
const CANCEL: [u8; 8] = [0, 0, 0, 16, 4, 210, 22, 46];

/// The number of the server's process, as the beginning of the session has told it. `None` when the request to cancel has
/// another shape than that of the protocol's version 3.
pub async fn told_pid(token: &CancelToken) -> Option<i32> {
    let (near, mut far) = duplex(256);
    let asked = token.cancel_query_raw(near, PassThrough);
    let read = async {
        let mut message = [0; 8];
        far.read_exact(&mut message).await?;
        if message != CANCEL {
            // The question for TLS comes first; what follows the answer is not encrypted here.
            far.write_all(b"S").await?;
            far.read_exact(&mut message).await?;
        }
        let mut pid = [0; 4];
        far.read_exact(&mut pid).await?;
        // The secret behind it is taken too, so that the other side can write all it has.
        let _secret = far.read_u32().await?;
        Ok::<_, io::Error>((message == CANCEL).then(|| i32::from_be_bytes(pid)))
    };
    let (_asked, read) = tokio::join!(asked, read);
    read.ok().flatten()
}

/// TLS that changes nothing.
#[derive(Debug)]
struct PassThrough;

impl TlsConnect<DuplexStream> for PassThrough {
    type Stream = Plain;
    type Error = io::Error;
    type Future = Ready<io::Result<Plain>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        ready(Ok(Plain(stream)))
    }
}

#[derive(Debug)]
struct Plain(DuplexStream);

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl TlsStream for Plain {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
