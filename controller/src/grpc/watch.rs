//! Runs are followed.
//!
//! A watcher is woken by notifications and reads events by their number in the history of the target, at any replica: none
//! is missed and none comes twice, whatever replica it was read from before. The end of a run is told by its last event; behind that
//! of a run that has failed come its last figures, once its agents have finished the batches that were open, or a few seconds later. What
//! a look costs depends on what is new, not on how many runs are followed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dunlin_proto::status;
use dunlin_proto::v1::{self, WatchRunsRequest, WatchRunsResponse};
use dunlin_shared::ids::TargetName;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::convert;
use super::status::{bad_field, known, no_run, of_store, target};
use crate::domain::EventType;
use crate::domain::run::State;
use crate::replica::Replica;
use crate::store;
use crate::store::runs::View;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(500);
/// The time between two looks while there is always something new, and how many may follow each other at once after a quiet
/// time: the end of a long run is told without delay, and many short runs do not cost a look for each of their events.
const BREATH: Duration = Duration::from_millis(50);
const MADE_UP: u32 = 4;
/// How long a watcher sleeps when nothing wakes it.
const SWEEP: Duration = Duration::from_secs(5);
/// How long the last figures of a run that has failed are waited for, and how often they are looked at meanwhile.
const SETTLED: Duration = Duration::from_secs(3);
const SETTLING: Duration = Duration::from_millis(100);
/// The rest after a failure of the database, and how many are borne in a row.
const REST: Duration = Duration::from_millis(500);
const FAILURES: u32 = 10;
/// Events that are read at once.
const EVENTS: i64 = 500;
/// The most runs that can be named.
const RUNS: usize = 10_000;

struct Watcher {
    replica: Arc<Replica>,
    target: TargetName,
    /// The runs that were named; `None`: all of the target.
    named: Option<Vec<i64>>,
    /// The named runs whose end has not been told.
    open: BTreeSet<i64>,
    /// The runs that have not ended, or whose last figures are waited for, as they were told last.
    told: BTreeMap<i64, View>,
    /// The runs whose last figures are waited for, and until when.
    settling: BTreeMap<i64, Instant>,
    sequence: i64,
    outgoing: mpsc::Sender<Result<WatchRunsResponse, Status>>,
}

/// Why a watcher stops looking.
enum Stop {
    /// The receiver has gone.
    Gone,
    /// The database.
    Store(store::Error),
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// What woke a watcher.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Events,
    Progress,
    /// Nothing, for a long time.
    Sweep,
}

/// When a watcher may look again.
struct Breath(Option<Instant>);

impl Breath {
    /// The moment of the next look after one that began at `start`.
    fn after(&mut self, start: Instant) -> Instant {
        let earliest = start.checked_sub(BREATH * MADE_UP).unwrap_or(start);
        let next = self.0.map_or(earliest, |due| due.max(earliest)) + BREATH;
        self.0 = Some(next);
        next
    }
}

pub(crate) async fn watch(
    replica: Arc<Replica>,
    request: WatchRunsRequest,
    stop: CancellationToken,
) -> Result<impl Stream<Item = Result<WatchRunsResponse, Status>>, Status> {
    let (target, named) = scope(&replica, &request).await?;
    let (outgoing, receiver) = mpsc::channel(64);
    let watcher = Watcher {
        replica,
        target,
        open: named.iter().flatten().copied().collect(),
        named,
        told: BTreeMap::new(),
        settling: BTreeMap::new(),
        sequence: request.after_sequence.max(0),
        outgoing,
    };
    tokio::spawn(async move {
        let outgoing = watcher.outgoing.clone();
        tokio::select! {
            end = watcher.run() => if let Err(status) = end {
                let _gone = outgoing.send(Err(status)).await;
            },
            () = outgoing.closed() => {}
            () = stop.cancelled() => {
                let stopping = status::error(Code::Unavailable, "STOPPING", "this controller stops; call another one");
                let _full = outgoing.try_send(Err(stopping));
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// The target, and the runs that are named.
async fn scope(replica: &Replica, request: &WatchRunsRequest) -> Result<(TargetName, Option<Vec<i64>>), Status> {
    if request.run_ids.is_empty() && !request.all {
        let reason = "there are none; name the runs to follow, or ask for `all` runs of a target, which has no end";
        return Err(bad_field("run_ids", reason));
    }
    if request.all {
        if !request.run_ids.is_empty() {
            return Err(bad_field("all", "it is asked for beside runs that are named; leave out one of both"));
        }
        return Ok((known(&replica.store, &request.target).await?, None));
    }
    if request.run_ids.len() > RUNS {
        return Err(bad_field("run_ids", format!("at most {RUNS} runs can be followed at once")));
    }
    let ids: Vec<i64> = request.run_ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let views = replica.store.runs_by_id(&ids).await.map_err(of_store)?;
    let found: BTreeSet<i64> = views.iter().map(|view| view.id).collect();
    if let Some(missing) = ids.iter().find(|id| !found.contains(id)) {
        return Err(no_run(*missing));
    }
    let targets: BTreeSet<&TargetName> = views.iter().map(|view| &view.target).collect();
    let mut targets = targets.into_iter();
    match (targets.next(), targets.next()) {
        (Some(one), None) => {
            if !request.target.is_empty() && *one != target(&request.target)? {
                let reason = format!("the runs are on target {one}, not on {}", request.target);
                return Err(bad_field("target", reason));
            }
            Ok((one.clone(), Some(ids)))
        }
        _ => Err(bad_field("run_ids", "the runs are on different targets; follow those of one target at a time")),
    }
}

impl Watcher {
    async fn run(mut self) -> Result<(), Status> {
        let mut news = self.replica.signals.follow(&self.target);
        let mut seen = *news.borrow_and_update();
        let mut next_progress = Instant::now() + PROGRESS;
        let mut woken = None;
        let mut failures = 0;
        let mut breath = Breath(None);
        loop {
            let start = Instant::now();
            let looked = match woken {
                None => self.begin().await,
                Some(woken) => self.look(woken).await,
            };
            match looked {
                Ok(()) => failures = 0,
                Err(Stop::Gone) => return Ok(()),
                Err(Stop::Store(error)) => {
                    failures += 1;
                    if failures >= FAILURES || !error.retryable() {
                        return Err(of_store(error));
                    }
                    sleep(REST).await;
                    continue;
                }
            }
            if self.named.is_some() && self.open.is_empty() {
                return Ok(());
            }
            sleep_until(breath.after(start)).await;
            let sweep = Instant::now() + if self.settling.is_empty() { SWEEP } else { SETTLING };
            let why = loop {
                let now = *news.borrow_and_update();
                let progress = now.progress != seen.progress;
                if now.events != seen.events {
                    seen.events = now.events;
                    break Woken::Events;
                }
                if progress && Instant::now() >= next_progress {
                    seen.progress = now.progress;
                    next_progress = Instant::now() + PROGRESS;
                    break Woken::Progress;
                }
                let until = if progress { next_progress } else { sweep };
                if timeout_at(until, news.changed()).await.is_err() && !progress {
                    break Woken::Sweep;
                }
            };
            woken = Some(why);
        }
    }

    /// Tells each run as it is, then its events so far.
    async fn begin(&mut self) -> Result<(), Stop> {
        let store = self.replica.store.clone();
        let last = store.last_sequence(&self.target).await?;
        let views = match &self.named {
            Some(ids) => store.runs_by_id(ids).await?,
            None => store.unfinished_runs(&self.target).await?,
        };
        for view in &views {
            self.send(Some(view), None).await?;
        }
        self.told = views.iter().filter(|view| !view.state.ended()).map(|view| (view.id, view.clone())).collect();
        if self.named.is_none() && self.sequence == 0 {
            // Of all that happened before, only what is of runs that have not ended.
            let runs: Vec<i64> = views.iter().map(|view| view.id).collect();
            self.tell_events(Some(&runs), last).await?;
            self.sequence = self.sequence.max(last);
        }
        self.tell_all_events().await?;
        // Their events were all read after they were seen ended.
        for view in views.iter().filter(|view| view.state.ended()) {
            self.ended(view);
        }
        Ok(())
    }

    /// Takes in that a run has ended, and all its events were told.
    fn ended(&mut self, view: &View) {
        let until = *self.settling.entry(view.id).or_insert_with(|| Instant::now() + SETTLED);
        if view.leases > 0 && Instant::now() < until {
            self.told.insert(view.id, view.clone());
            return;
        }
        self.settling.remove(&view.id);
        self.open.remove(&view.id);
        self.told.remove(&view.id);
    }

    /// Tells what is new.
    async fn look(&mut self, woken: Woken) -> Result<(), Stop> {
        self.tell_all_events().await?;
        let ids: Vec<i64> = match woken {
            Woken::Events => self.settling.keys().copied().collect(),
            Woken::Progress => {
                self.told.values().filter(|view| view.state != State::Queued).map(|view| view.id).collect()
            }
            Woken::Sweep => self.told.keys().copied().collect(),
        };
        if ids.is_empty() {
            return Ok(());
        }
        let views = self.replica.store.runs_by_id(&ids).await?;
        let found: BTreeSet<i64> = views.iter().map(|view| view.id).collect();
        for removed in ids.iter().filter(|id| !found.contains(id)) {
            // Its target was forgotten: there is nothing more to tell.
            self.settling.remove(removed);
            self.open.remove(removed);
            self.told.remove(removed);
        }
        for view in views {
            if self.told.get(&view.id).is_some_and(|told| !same(told, &view)) {
                self.send(Some(&view), None).await?;
                self.told.insert(view.id, view.clone());
            }
            if self.settling.contains_key(&view.id) {
                self.ended(&view);
            }
        }
        Ok(())
    }

    async fn tell_all_events(&mut self) -> Result<(), Stop> {
        let named = self.named.clone();
        self.tell_events(named.as_deref(), i64::MAX).await
    }

    /// Tells the events of runs up to a number.
    async fn tell_events(&mut self, runs: Option<&[i64]>, until: i64) -> Result<(), Stop> {
        let store = self.replica.store.clone();
        loop {
            let events = store.events_between(&self.target, self.sequence, until, runs, EVENTS).await?;
            if !events.is_empty() {
                // Who counts on a number must find the same event under it after a crash of the database.
                store.flush().await?;
            }
            let full = i64::try_from(events.len()).unwrap_or(EVENTS) >= EVENTS;
            let ids: BTreeSet<i64> = events.iter().map(|event| event.run_id).collect();
            let ids: Vec<i64> = ids.into_iter().collect();
            let views = if ids.is_empty() { Vec::new() } else { store.runs_by_id(&ids).await? };
            let views: BTreeMap<i64, View> = views.into_iter().map(|view| (view.id, view)).collect();
            for event in events {
                self.sequence = event.sequence;
                self.send(views.get(&event.run_id), Some(convert::event_out(&event))).await?;
                let ends = matches!(
                    event.event_type,
                    Some(EventType::RunSucceeded | EventType::RunFailed | EventType::RunCancelled)
                );
                match views.get(&event.run_id) {
                    Some(view) if ends => self.ended(view),
                    None if ends => {
                        self.open.remove(&event.run_id);
                        self.told.remove(&event.run_id);
                    }
                    Some(view) if !view.state.ended() => drop(self.told.insert(view.id, view.clone())),
                    Some(_) | None => {}
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn send(&self, view: Option<&View>, event: Option<v1::Event>) -> Result<(), Stop> {
        let response = WatchRunsResponse { run: view.map(convert::run_out), event, sequence: self.sequence };
        self.outgoing.send(Ok(response)).await.map_err(|_| Stop::Gone)
    }
}

/// True when there is nothing new to tell of a run. That its speed falls while nothing happens is new, too.
fn same(told: &View, now: &View) -> bool {
    told.state == now.state
        && told.waits == now.waits
        && (told.leases == 0) == (now.leases == 0)
        && told.activity == now.activity
        && told.steps.len() == now.steps.len()
        && told.steps.iter().zip(&now.steps).all(|(told, now)| {
            let slower = told.rows_per_second - now.rows_per_second > told.rows_per_second / 10.0;
            told.step == now.step && (told.leases == 0) == (now.leases == 0) && !slower
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_time_makes_up_for_some_looks_and_no_more() {
        let mut breath = Breath(None);
        let start = Instant::now() + Duration::from_secs(60);
        let waits = |breath: &mut Breath, at: Instant| breath.after(at).saturating_duration_since(at);
        let at_once: Vec<Duration> = (0..6).map(|_| waits(&mut breath, start)).collect();
        assert_eq!(at_once, [0, 0, 0, 0, 50, 100].map(Duration::from_millis));
        assert_eq!(waits(&mut breath, start + BREATH * 2), BREATH, "one look every 50 ms");
        let later = start + Duration::from_secs(10);
        let after_quiet: Vec<Duration> = (0..5).map(|_| waits(&mut breath, later)).collect();
        assert_eq!(after_quiet, [0, 0, 0, 0, 50].map(Duration::from_millis));
    }
}
