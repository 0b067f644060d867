//! What a server says, looked at below the client library.
//!
//! The client library holds each message of the server in memory as a whole, however long it is, and passes the server's notices to
//! nobody. So a session reads through a [`Watched`] stream: it looks at the length of each message before the library does, and keeps
//! the notices. It stands above TLS, where messages can be read.
//!
//! What must stay true: a message that is too long is never held in memory. In its place the library reads an error with the SQLSTATE
//! [`OVERSIZED`], as if the server had ended the session with it, and then the end of the stream: so it reaches whoever waits for the
//! answer, like every other error. A notice never ends a session, since it can come with a commit: of a long one the beginning is kept.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::end::{End, Questions};
use super::notice::{self, Heard};
use crate::figures::{self, count};

/// The longest message of a server that a session takes, in bytes.
pub const MOST_IN_MESSAGE: usize = 16 << 20;

/// The SQLSTATE of the error that stands for a message that is too long. No server has it.
pub const OVERSIZED: &str = "DUN01";

/// How much of a notice is read.
const MOST_IN_NOTICE: usize = 64 << 10;

const INBOX: usize = 32 << 10;

/// The tag and the length that each message begins with.
const HEADER: usize = 5;

/// What was heard on a connection, shared by its stream and its session.
#[derive(Debug, Default)]
pub(super) struct Wire {
    heard: Mutex<Heard>,
    end: End,
}

impl Wire {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the end of the session.
    pub(super) fn end(&self) -> &End {
        &self.end
    }

    /// Takes what was heard since the last call.
    pub(super) fn take(&self) -> Heard {
        self.heard().take()
    }
}

/// Where the stream stands in what the server sends.
#[derive(Debug)]
enum At {
    /// Before a message.
    Header,
    /// In a message that goes on to the client library, with so many bytes left.
    Message(usize),
    /// In a message that nobody needs.
    Skipped(usize),
    /// In a notice: what is left of it, and what was read.
    Notice(usize, Vec<u8>),
    /// At the end that was made here: what the client library has still to read.
    End(Vec<u8>),
}

/// A stream from a server that is looked at.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    wire: Arc<Wire>,
    inbox: Box<[u8]>,
    /// What of the inbox was read from the server and not yet used.
    from: usize,
    to: usize,
    at: At,
    /// The beginning of the error that goes by.
    error: Option<Vec<u8>>,
    questions: Questions,
}

impl<S> Watched<S> {
    /// A stream that begins with messages.
    pub(super) fn new(inner: S, wire: Arc<Wire>) -> Self {
        let inbox = vec![0; INBOX].into_boxed_slice();
        Self { inner, wire, inbox, from: 0, to: 0, at: At::Header, error: None, questions: Questions::default() }
    }

    fn unused(&self) -> &[u8] {
        self.inbox.get(self.from..self.to).unwrap_or_default()
    }

    /// Gives what is there of the next `most` bytes to the reader.
    fn hand_over(&mut self, most: usize, buffer: &mut ReadBuf<'_>) -> usize {
        let some = most.min(self.to - self.from).min(buffer.remaining());
        buffer.put_slice(self.unused().get(..some).unwrap_or_default());
        self.from += some;
        some
    }

    /// Looks at the message that begins here. `None` when too little of it is there.
    fn begin(&mut self) -> Option<At> {
        let header = self.unused().first_chunk::<HEADER>()?;
        let [tag, length @ ..] = *header;
        // The length counts itself and not the tag. What is no length is the client library's to refuse.
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
        let whole = length.max(HEADER - 1) + 1;
        match tag {
            b'C' | b'I' => self.wire.heard().command += 1,
            b'Z' => {
                self.wire.heard().command = 0;
                self.wire.end().answered();
            }
            b'E' => self.error = Some(Vec::new()),
            _ => {}
        }
        Some(match tag {
            b'N' => At::Notice(whole, Vec::new()),
            // They come without being asked for, and at any time.
            b'A' | b'S' if length > MOST_IN_MESSAGE => At::Skipped(whole),
            _ if length > MOST_IN_MESSAGE => At::End(end(length)),
            _ => At::Message(whole),
        })
    }

    /// Goes on with what is there. True when more must be read from the server first.
    fn advance(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        loop {
            if buffer.remaining() == 0 {
                return false;
            }
            match mem::replace(&mut self.at, At::Header) {
                At::Header => match self.begin() {
                    Some(at) => self.at = at,
                    None => return true,
                },
                At::Message(left) => {
                    let from = self.from;
                    let some = self.hand_over(left, buffer);
                    self.listen(from, some == left);
                    if some < left {
                        self.at = At::Message(left - some);
                    }
                    if some == 0 {
                        return true;
                    }
                }
                At::Skipped(left) => {
                    let some = left.min(self.to - self.from);
                    self.from += some;
                    if some < left {
                        self.at = At::Skipped(left - some);
                        return true;
                    }
                }
                At::Notice(left, mut read) => {
                    let some = left.min(self.to - self.from);
                    let kept = some.min(MOST_IN_NOTICE.saturating_sub(read.len()));
                    read.extend_from_slice(self.unused().get(..kept).unwrap_or_default());
                    self.from += some;
                    if some < left {
                        self.at = At::Notice(left - some, read);
                        return true;
                    }
                    self.hear(read.get(HEADER..).unwrap_or_default());
                }
                At::End(rest) => {
                    let some = rest.len().min(buffer.remaining());
                    let (now, later) = rest.split_at(some);
                    buffer.put_slice(now);
                    self.at = At::End(later.to_vec());
                    return false;
                }
            }
        }
    }

    /// Keeps the beginning of an error that was handed over from here on.
    fn listen(&mut self, from: usize, whole: bool) {
        let Some(read) = &mut self.error else { return };
        let room = MOST_IN_NOTICE.saturating_sub(read.len());
        let more = self.inbox.get(from..self.to.min(self.from).min(from + room)).unwrap_or_default();
        read.extend_from_slice(more);
        if whole {
            let read = self.error.take().unwrap_or_default();
            let body = read.get(HEADER..).unwrap_or_default();
            self.wire.heard().fail(body);
            if let Some(code) = notice::fatal(body) {
                self.wire.end().fatal(&code);
            }
        }
    }

    /// Takes in what was sent to the server.
    fn sent(&mut self, bytes: &[u8]) {
        if self.wire.end().begun() {
            let questions = self.questions.count(bytes);
            self.wire.end().asked(questions);
        }
    }

    fn hear(&self, body: &[u8]) {
        let mut heard = self.wire.heard();
        let command = heard.command;
        if let Some(notice) = notice::parse(body, command) {
            self.wire.end().notice(&notice.code);
            heard.hear(notice);
        }
    }
}

/// The message that stands for one that is too long.
fn end(length: usize) -> Vec<u8> {
    let text = format!(
        "the server sent one message of {} bytes, and an agent takes {} (16 MiB): the session was ended, and its transaction is rolled \
         back",
        count(figures::length(length)),
        count(figures::length(MOST_IN_MESSAGE)),
    );
    let mut body = Vec::new();
    for (field, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', OVERSIZED), (b'M', text.as_str())] {
        body.push(field);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut message = vec![b'E'];
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(&body);
    message
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            let more = this.advance(buffer);
            if !more || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if this.from > 0 {
                this.inbox.copy_within(this.from..this.to, 0);
                (this.from, this.to) = (0, this.to - this.from);
            }
            let mut space = ReadBuf::new(this.inbox.get_mut(this.to..).unwrap_or_default());
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut space));
            let some = space.filled().len();
            if some == 0 {
                this.wire.end().cut();
            }
            read?;
            if some == 0 {
                return Poll::Ready(Ok(()));
            }
            this.to += some;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let some = ready!(Pin::new(&mut this.inner).poll_write(cx, buffer))?;
        this.sent(buffer.get(..some).unwrap_or_default());
        Poll::Ready(Ok(some))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let some = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, buffers))?;
        let mut left = some;
        for buffer in buffers {
            let part = buffer.get(..left.min(buffer.len())).unwrap_or_default();
            this.sent(part);
            left -= part.len();
        }
        Poll::Ready(Ok(some))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// TLS below a stream that is looked at.
pub(super) struct Below<T>(pub(super) T);

impl<S, T> TlsConnect<Watched<S>> for Below<T>
where
    S: Send + 'static,
    T: TlsConnect<S> + Send + 'static,
    T::Future: Send,
{
    type Stream = Watched<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, T::Error>> + Send>>;

    fn connect(self, stream: Watched<S>) -> Self::Future {
        let Watched { inner, wire, .. } = stream;
        let connecting = self.0.connect(inner);
        Box::pin(async move { connecting.await.map(|stream| Watched::new(stream, wire)) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::end::{Ending, Witness};
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![tag];
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(body);
        message
    }

    /// What comes out of a stream that so many bytes at a time go into.
    async fn through(sent: Vec<u8>, pace: usize) -> (Vec<u8>, Heard) {
        let wire = Arc::<Wire>::default();
        let (near, mut far) = duplex(pace);
        let mut watched = Watched::new(near, Arc::clone(&wire));
        let sending = async move {
            let _ended = far.write_all(&sent).await;
        };
        // It takes the stream with it: who sends more than is read is not left waiting.
        let reading = async move {
            let mut read = Vec::new();
            let mut some = vec![0; pace.max(3)];
            loop {
                match watched.read(&mut some).await.unwrap() {
                    0 => break read,
                    length => read.extend_from_slice(&some[..length]),
                }
            }
        };
        let ((), read) = tokio::join!(sending, reading);
        (read, wire.take())
    }

    #[tokio::test]
    async fn messages_pass_and_notices_are_kept_whatever_they_are_cut_into() {
        let notice = message(b'N', b"SWARNING\0VWARNING\0C01000\0Mlook\0Where\0\0");
        let rows: Vec<u8> = message(b'D', &vec![7; 40_000]);
        let sent = [message(b'C', b"SELECT 1\0"), notice, rows.clone(), message(b'Z', b"I")].concat();
        for pace in [1, 2, 7, 4096, 100_000] {
            let (read, heard) = through(sent.clone(), pace).await;
            assert_eq!(read, [message(b'C', b"SELECT 1\0"), rows.clone(), message(b'Z', b"I")].concat(), "{pace}");
            assert_eq!(heard.notices.len(), 1);
            assert_eq!((heard.notices[0].message.as_str(), heard.notices[0].command), ("look", 1));
        }
    }

    /// What is known of the end of a session that has begun, whose server has sent this behind so many questions, and then closed.
    async fn ending(questions: usize, sent: &[Vec<u8>]) -> Ending {
        let wire = Arc::<Wire>::default();
        let (near, mut far) = duplex(4096);
        let mut watched = Watched::new(near, Arc::clone(&wire));
        let witness = Witness(wire);
        let (mut read, begins) = (vec![0; 4096], message(b'Z', b"I"));
        watched.write_all(b"Qwhatever it begins with").await.unwrap();
        far.write_all(&begins).await.unwrap();
        watched.read_exact(&mut read[..begins.len()]).await.unwrap();
        for _ in 0..questions {
            let parsed = [message(b'P', b"SSS"), message(b'S', b"")].concat();
            for piece in [message(b'Q', b"SELECT Q"), parsed].concat().chunks(3) {
                watched.write_all(piece).await.unwrap();
            }
        }
        far.write_all(&sent.concat()).await.unwrap();
        assert_eq!(witness.ending(), None);
        drop(far);
        while watched.read(&mut read).await.unwrap() > 0 {}
        assert!(!witness.alone());
        drop(watched);
        assert!(witness.alone());
        witness.ending().unwrap()
    }

    #[tokio::test]
    async fn a_session_knows_with_which_word_it_was_ended_and_whether_something_was_asked() {
        let answer = || message(b'Z', b"I");
        let told = |word: Option<&str>, busy: bool| Ending { word: word.map(str::to_owned), busy };
        assert_eq!(ending(1, &[]).await, told(None, true), "cut in the middle of a statement");
        assert_eq!(ending(1, &[answer()]).await, told(None, true), "cut in the middle of the second");
        assert_eq!(ending(1, &[answer(), answer()]).await, told(None, false), "cut while nothing was executed");
        assert_eq!(ending(0, &[]).await, told(None, false));
        let crash = message(b'N', b"SWARNUNG\0VWARNING\0C57P02\0Mterminating connection\0\0");
        assert_eq!(ending(1, &[crash]).await, told(Some("57P02"), true));
        let idle = message(b'E', b"SFATAL\0VFATAL\0C25P03\0Mterminating connection\0\0");
        assert_eq!(ending(0, &[idle]).await, told(Some("25P03"), false));
        let other = message(b'E', b"SERROR\0VERROR\0C57014\0Mcanceling statement\0\0");
        let harmless = message(b'N', b"SWARNING\0VWARNING\0C01000\0Mlook\0\0");
        assert_eq!(ending(1, &[other, harmless, answer(), answer()]).await, told(None, false));
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_becomes_an_error_and_the_end() {
        let mut sent = message(b'C', b"SELECT 1\0");
        sent.push(b'D');
        sent.extend_from_slice(&u32::try_from(MOST_IN_MESSAGE + 1).unwrap().to_be_bytes());
        sent.extend_from_slice(&[7; 100_000]);
        let (read, _) = through(sent, 1000).await;
        let rest = read.strip_prefix(message(b'C', b"SELECT 1\0").as_slice()).unwrap();
        assert_eq!(rest, end(MOST_IN_MESSAGE + 1));
    }

    #[tokio::test]
    async fn a_long_notice_ends_nothing_and_its_beginning_is_kept() {
        let mut body = b"VNOTICE\0C00000\0M".to_vec();
        body.extend(vec![b'x'; MOST_IN_MESSAGE + 100]);
        body.extend(b"\0\0");
        let sent = [message(b'N', &body), message(b'Z', b"I")].concat();
        let (read, heard) = through(sent, 65_536).await;
        assert_eq!(read, message(b'Z', b"I"));
        assert!(heard.notices[0].message.starts_with("xxx"));
    }
}
