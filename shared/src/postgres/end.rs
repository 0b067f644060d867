//! How a session came to its end, as its wire has seen it.
//!
//! The client library says of a lost connection only that it is closed. Why is told before: a server that ends a session says so by an
//! error that is FATAL, or, where another of its processes has crashed or it stops at once, by a notice. A session that ends without
//! such a word while it executes something was cut on the way, or its own process has crashed.
//!
//! What must stay true: the word outlives the session, for whoever asks comes later.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::wire::Wire;

/// The SQLSTATEs of the notices by which a server takes its leave: it stops, or another of its processes has crashed.
const LEAVES: [&str; 2] = ["57P01", "57P02"];

/// What is known of the end of a session, shared by its stream and its witnesses.
#[derive(Debug, Default)]
pub(super) struct End {
    over: AtomicBool,
    ready: AtomicBool,
    open: AtomicUsize,
    word: OnceLock<String>,
}

impl End {
    /// True once the session has begun: from then on each message has a tag.
    pub(super) fn begun(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// So many questions were sent.
    pub(super) fn asked(&self, questions: usize) {
        self.open.fetch_add(questions, Ordering::Relaxed);
    }

    /// The server has answered a question, or the session begins.
    pub(super) fn answered(&self) {
        if self.ready.swap(true, Ordering::Relaxed) {
            let less = |open: usize| Some(open.saturating_sub(1));
            let _was = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// The stream has ended.
    pub(super) fn cut(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// The server has sent a notice.
    pub(super) fn notice(&self, code: &str) {
        if LEAVES.contains(&code) {
            let _first = self.word.set(code.to_owned());
        }
    }

    /// The server has sent an error that ends the session.
    pub(super) fn fatal(&self, code: &str) {
        let _first = self.word.set(code.to_owned());
        self.cut();
    }
}

/// How a session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The SQLSTATE with which the server took its leave; `None` where it said nothing.
    pub word: Option<String>,
    /// True when something was sent that the server had not answered.
    pub busy: bool,
}

/// Counts the questions in what is sent to a server, whatever it is cut into: each is answered by one ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Questions {
    header: [u8; HEADER],
    /// What of the header is known.
    known: usize,
    /// What is left of the message behind its header.
    left: usize,
}

/// The tag and the length that each message begins with.
const HEADER: usize = 5;

impl Questions {
    /// How many there are in the next bytes.
    pub(super) fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut questions = 0;
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let some = self.left.min(bytes.len());
                self.left -= some;
                bytes = bytes.get(some..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.header.get_mut(self.known) {
                *place = *first;
            }
            self.known += 1;
            bytes = rest;
            if self.known == HEADER {
                let [tag, length @ ..] = self.header;
                self.known = 0;
                // The length counts itself.
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(0).saturating_sub(HEADER - 1);
                questions += usize::from(matches!(tag, b'Q' | b'S'));
            }
        }
        questions
    }
}

/// Whoever wants to know how a session has ended, also when the session is gone.
#[derive(Clone, Debug)]
pub struct Witness(pub(super) Arc<Wire>);

impl Witness {
    /// How the session has ended; `None` while it has not, and when it was closed from here.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        let end = self.0.end();
        end.over
            .load(Ordering::Acquire)
            .then(|| Ending { word: end.word.get().cloned(), busy: end.open.load(Ordering::Relaxed) > 0 })
    }

    /// True when nobody else has the session any more, so that nothing more comes.
    #[must_use]
    pub fn alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}
