//! The leases that this agent holds, and what it still has to say about them.
//!
//! Workers write here, the stream reads here; neither waits for the other. So a stream that breaks stops no work: reports stay
//! in the book until a controller has acknowledged them, and are sent again on the next stream.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dunlin_proto::fit::fit;
use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{
    self, Activity, EventType, LeaseProgress, ReleaseReason, Severity, TargetReport, TaskNote, WorkRequest,
};
use tokio::sync::{Notify, mpsc, watch};

/// Notes that are kept while there is no stream.
const NOTES: usize = 1000;

/// Names a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LeaseId {
    /// The task.
    pub(crate) task: i64,
    /// The epoch.
    pub(crate) epoch: i64,
}

impl From<LeaseId> for v1::Lease {
    fn from(id: LeaseId) -> Self {
        Self { task_id: id.task, epoch: id.epoch }
    }
}

impl From<v1::Lease> for LeaseId {
    fn from(lease: v1::Lease) -> Self {
        Self { task: lease.task_id, epoch: lease.epoch }
    }
}

/// What a worker is told about its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Go on.
    Work,
    /// Finish the open batch and give the lease back.
    Stop {
        /// Why.
        reason: ReleaseReason,
        /// Why, in words.
        message: String,
    },
    /// Somebody else may hold the task: stop and say nothing.
    Lost,
}

#[derive(Debug, Default)]
struct Progress {
    rows: AtomicI64,
    rows_walked: AtomicI64,
    /// What the target had walked of the task when the lease took it.
    before: OnceLock<i64>,
    state: Mutex<(String, Option<Activity>)>,
    /// Counts signs of life.
    alive: AtomicI64,
}

#[derive(Debug)]
struct Entry {
    progress: Arc<Progress>,
    /// What was told last; nothing yet of a new lease, which is news by itself.
    told: Option<LeaseProgress>,
    signal: watch::Sender<Signal>,
    unacknowledged: VecDeque<Message>,
    finished: bool,
}

#[derive(Debug, Default)]
struct Inner {
    leases: HashMap<LeaseId, Entry>,
    stream: Option<mpsc::UnboundedSender<WorkRequest>>,
    notes: VecDeque<Message>,
    stopping: bool,
    left: bool,
}

/// The book.
#[derive(Debug, Default)]
pub(crate) struct Book {
    inner: Mutex<Inner>,
    emptied: Notify,
    idle: Notify,
    connected: watch::Sender<bool>,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a lease that was granted. `None` when it stands here already, or when the agent stops: then the lease has been
    /// given back.
    pub(crate) fn enter(self: &Arc<Self>, id: LeaseId) -> Option<Lease> {
        let mut inner = self.lock();
        if inner.leases.contains_key(&id) {
            return None;
        }
        let (signal, receiver) = watch::channel(Signal::Work);
        let progress = Arc::<Progress>::default();
        let entry = Entry {
            progress: Arc::clone(&progress),
            told: None,
            signal,
            unacknowledged: VecDeque::new(),
            finished: false,
        };
        inner.leases.insert(id, entry);
        if inner.stopping {
            let message = Message::Released(v1::TaskReleased {
                lease: Some(id.into()),
                reason: ReleaseReason::Stopping.into(),
                message: STOPPING.to_owned(),
                ..v1::TaskReleased::default()
            });
            inner.report(id, message, true);
            return None;
        }
        Some(Lease { id, book: Arc::clone(self), signal: receiver, progress })
    }

    /// How many leases are worked on.
    pub(crate) fn busy(&self) -> usize {
        self.lock().leases.values().filter(|entry| !entry.finished).count()
    }

    /// A stream was opened: everything that was not acknowledged goes onto it again.
    pub(crate) fn open_stream(&self, stream: mpsc::UnboundedSender<WorkRequest>) {
        let mut inner = self.lock();
        let notes = std::mem::take(&mut inner.notes);
        let reports = inner.leases.values().flat_map(|entry| entry.unacknowledged.iter().cloned());
        for message in notes.into_iter().chain(reports) {
            let _closed = stream.send(WorkRequest { message: Some(message) });
        }
        inner.stream = Some(stream);
        self.connected.send_replace(true);
    }

    /// The stream broke.
    pub(crate) fn close_stream(&self) {
        self.lock().stream = None;
        self.connected.send_replace(false);
    }

    /// Whether there is a stream to a controller.
    pub(crate) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// The agent goes away: it has nothing more to say. True when there is a stream, which the controller then ends.
    pub(crate) fn leave(&self) -> bool {
        let mut inner = self.lock();
        inner.left = true;
        inner.stream.take().is_some()
    }

    /// True once the agent has gone away.
    pub(crate) fn left(&self) -> bool {
        self.lock().left
    }

    /// Tells what was found out about a target.
    pub(crate) fn report_target(&self, report: TargetReport) {
        self.say(Message::Target(report));
    }

    /// Sends something that is of no lease, if there is a stream.
    pub(crate) fn say(&self, message: Message) {
        self.lock().send(message);
    }

    /// The oldest report of a lease was stored.
    pub(crate) fn acknowledged(&self, id: LeaseId) {
        let mut inner = self.lock();
        if let Some(entry) = inner.leases.get_mut(&id) {
            entry.unacknowledged.pop_front();
            if entry.finished && entry.unacknowledged.is_empty() {
                inner.leases.remove(&id);
            }
        }
        self.wake_waiters(&inner);
    }

    /// A controller says that these leases are no longer held.
    pub(crate) fn lost(&self, ids: impl IntoIterator<Item = LeaseId>) {
        let mut inner = self.lock();
        for id in ids {
            if let Some(entry) = inner.leases.remove(&id) {
                tracing::warn!(task = id.task, epoch = id.epoch, "the lease is held no more");
                entry.signal.send_replace(Signal::Lost);
            }
        }
        self.wake_waiters(&inner);
    }

    /// A controller says which leases are still held: all others are lost.
    pub(crate) fn keep_only(&self, kept: &[LeaseId]) {
        let gone: Vec<LeaseId> = self.lock().leases.keys().copied().filter(|id| !kept.contains(id)).collect();
        self.lost(gone);
    }

    /// A controller wants a lease back.
    pub(crate) fn revoke(&self, id: LeaseId, message: String) {
        if let Some(entry) = self.lock().leases.get(&id) {
            entry.signal.send_if_modified(|signal| {
                let working = *signal == Signal::Work;
                if working {
                    *signal = Signal::Stop { reason: ReleaseReason::Revoked, message };
                }
                working
            });
        }
    }

    /// The agent stops: all leases are given back, and new ones at once.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopping = true;
        for entry in inner.leases.values() {
            entry.signal.send_if_modified(|signal| {
                let working = *signal == Signal::Work;
                if working {
                    *signal = Signal::Stop { reason: ReleaseReason::Stopping, message: STOPPING.to_owned() };
                }
                working
            });
        }
    }

    /// Waits until no lease is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().leases.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until no worker is busy.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().leases.values().all(|entry| entry.finished) {
                return;
            }
            idle.await;
        }
    }

    /// All leases with their progress, to renew them.
    pub(crate) fn all(&self) -> Vec<LeaseProgress> {
        self.lock().leases.iter_mut().map(|(id, entry)| entry.tell(*id)).collect()
    }

    /// All leases with their progress, when there is something new to tell about at least one.
    pub(crate) fn news(&self) -> Option<Vec<LeaseProgress>> {
        let mut inner = self.lock();
        // Signs of life go with the next heartbeat, and are no reason for one.
        let told = |(id, entry): (&LeaseId, &Entry)| {
            entry.told.as_ref().is_some_and(|told| *told == LeaseProgress { alive: told.alive, ..entry.now(*id) })
        };
        let news = inner.leases.iter().any(|(id, entry)| !entry.finished && !told((id, entry)));
        news.then(|| inner.leases.iter_mut().map(|(id, entry)| entry.tell(*id)).collect())
    }

    fn wake_waiters(&self, inner: &Inner) {
        self.idle.notify_waiters();
        if inner.leases.is_empty() {
            self.emptied.notify_waiters();
        }
    }
}

const STOPPING: &str = "the agent stops";

impl Entry {
    fn now(&self, id: LeaseId) -> LeaseProgress {
        let Progress { rows, rows_walked, before, state, alive } = &*self.progress;
        let (waits, activity) = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LeaseProgress {
            lease: Some(id.into()),
            rows: rows.load(Ordering::Relaxed),
            rows_walked: rows_walked.load(Ordering::Relaxed),
            rows_walked_before: before.get().copied().unwrap_or(0),
            waits,
            activity,
            alive: alive.load(Ordering::Relaxed),
        }
    }

    fn tell(&mut self, id: LeaseId) -> LeaseProgress {
        self.told.insert(self.now(id)).clone()
    }
}

impl Inner {
    /// Sends what the message says, in messages that each fit; those of one message without another in between.
    fn send(&self, message: Message) -> bool {
        fit(message).into_iter().all(|message| self.send_one(message))
    }

    fn send_one(&self, message: Message) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.send(WorkRequest { message: Some(message) }).is_ok())
    }

    fn report(&mut self, id: LeaseId, message: Message, last: bool) {
        let Some(entry) = self.leases.get_mut(&id) else { return };
        entry.finished |= last;
        // Each part is acknowledged by itself.
        let parts = fit(message);
        entry.unacknowledged.extend(parts.iter().cloned());
        for part in parts {
            self.send_one(part);
        }
    }
}

/// A worker's side of a lease.
#[derive(Debug)]
pub(crate) struct Lease {
    id: LeaseId,
    book: Arc<Book>,
    signal: watch::Receiver<Signal>,
    progress: Arc<Progress>,
}

impl Lease {
    /// Its name.
    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// What the worker is told now.
    pub(crate) fn signal(&self) -> Signal {
        self.signal.borrow().clone()
    }

    /// Waits until the worker is told something else than to go on.
    pub(crate) async fn told(&self) -> Signal {
        let mut signal = self.signal.clone();
        match signal.wait_for(|signal| *signal != Signal::Work).await {
            Ok(signal) => signal.clone(),
            // The entry is gone, and with it the lease.
            Err(_) => Signal::Lost,
        }
    }

    /// Notes rows that the target has made durable.
    pub(crate) fn progress(&self, rows: i64, rows_walked: i64) {
        self.progress.rows.store(rows, Ordering::Relaxed);
        self.progress.rows_walked.store(rows_walked, Ordering::Relaxed);
    }

    /// Notes the rows that the target had walked when the lease took the task; once, however often the lease takes it again.
    pub(crate) fn taken(&self, rows_walked: i64) {
        self.progress.before.get_or_init(|| rows_walked);
    }

    /// The rows that the target had walked when the lease took the task.
    pub(crate) fn before(&self) -> i64 {
        self.progress.before.get().copied().unwrap_or(0)
    }

    /// Notes what the task waits for, and how far PostgreSQL is with its statement.
    pub(crate) fn state(&self, waits: Option<String>, activity: Option<Activity>) {
        *self.progress.state.lock().unwrap_or_else(PoisonError::into_inner) = (waits.unwrap_or_default(), activity);
    }

    /// Notes a sign of life of the task.
    pub(crate) fn alive(&self) {
        self.progress.alive.fetch_add(1, Ordering::Relaxed);
    }

    /// The rows changed and walked that were noted last.
    pub(crate) fn durable(&self) -> (i64, i64) {
        (self.progress.rows.load(Ordering::Relaxed), self.progress.rows_walked.load(Ordering::Relaxed))
    }

    /// Reports something that a controller must acknowledge and that does not end the lease.
    pub(crate) fn report(&self, message: Message) {
        self.book.lock().report(self.id, message, false);
    }

    /// Tells what was found out about the target of the lease.
    pub(crate) fn report_target(&self, report: TargetReport) {
        self.book.report_target(report);
    }

    /// Ends the lease with a last report, or without one when it is lost.
    pub(crate) fn end(self, message: Option<Message>) {
        let mut inner = self.book.lock();
        match message {
            Some(message) => inner.report(self.id, message, true),
            None => {
                inner.leases.remove(&self.id);
            }
        }
        self.book.wake_waiters(&inner);
    }

    /// Tells something for the history.
    pub(crate) fn note(&self, event: EventType, message: impl Into<String>) {
        self.tell(TaskNote { r#type: event.into(), message: message.into(), ..TaskNote::default() });
    }

    /// Tells how the work is done inside, for the history.
    pub(crate) fn detail(&self, event: EventType, message: impl Into<String>) {
        let (message, severity) = (message.into(), Severity::Debug.into());
        self.tell(TaskNote { r#type: event.into(), message, severity, ..TaskNote::default() });
    }

    /// Tells something for the history of which more is to be said than a sentence.
    pub(crate) fn tell(&self, note: TaskNote) {
        match note.severity() {
            Severity::Debug => tracing::debug!(task = self.id.task, epoch = self.id.epoch, "{}", note.message),
            _ => tracing::info!(task = self.id.task, epoch = self.id.epoch, "{}", note.message),
        }
        let note = Message::Note(TaskNote { lease: Some(self.id.into()), ..note });
        let mut inner = self.book.lock();
        if !inner.send(note.clone()) && inner.notes.len() < NOTES {
            inner.notes.push_back(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LeaseId = LeaseId { task: 7, epoch: 2 };

    fn done() -> Message {
        Message::Done(v1::TaskDone { lease: Some(ID.into()), ..v1::TaskDone::default() })
    }

    #[test]
    fn a_report_is_sent_again_on_every_stream_until_it_is_acknowledged() {
        let book = Arc::new(Book::default());
        let lease = book.enter(ID).unwrap();
        lease.end(Some(done()));
        for _stream in 0..2 {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            book.open_stream(sender);
            assert_eq!(receiver.try_recv().unwrap().message, Some(done()));
            book.close_stream();
        }
        assert_eq!(book.all().len(), 1, "the controller still counts the lease");
        book.acknowledged(ID);
        let (sender, mut receiver) = mpsc::unbounded_channel();
        book.open_stream(sender);
        assert!(receiver.try_recv().is_err());
        assert!(book.all().is_empty());
    }

    #[test]
    fn a_lease_that_a_controller_does_not_keep_is_lost() {
        let book = Arc::new(Book::default());
        let lease = book.enter(ID).unwrap();
        book.keep_only(&[LeaseId { epoch: 1, ..ID }]);
        assert_eq!(lease.signal(), Signal::Lost);
        lease.report(done());
        assert!(book.all().is_empty());
    }

    #[test]
    fn a_lease_is_entered_once() {
        let book = Arc::new(Book::default());
        let _lease = book.enter(ID).unwrap();
        assert!(book.enter(ID).is_none());
    }

    #[test]
    fn an_agent_that_stops_gives_new_leases_back_at_once() {
        let book = Arc::new(Book::default());
        book.stop();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        book.open_stream(sender);
        assert!(book.enter(ID).is_none());
        assert!(matches!(receiver.try_recv().unwrap().message, Some(Message::Released(_))));
    }

    #[test]
    fn progress_is_told_once() {
        let book = Arc::new(Book::default());
        let lease = book.enter(ID).unwrap();
        assert_eq!(book.news().unwrap().len(), 1, "a new lease is told of by itself");
        assert!(book.news().is_none());
        lease.taken(4);
        lease.taken(10);
        lease.progress(5, 10);
        let told = book.news().unwrap().remove(0);
        assert_eq!((told.rows_walked, told.rows_walked_before), (10, 4));
        assert!(book.news().is_none());
        lease.state(Some("for a lock".to_owned()), None);
        assert_eq!(book.news().unwrap()[0].waits, "for a lock");
        lease.state(None, None);
        assert_eq!(book.news().unwrap()[0].waits, "");
        assert!(book.news().is_none());
    }
}
