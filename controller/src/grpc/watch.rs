//! Runs are followed.
//!
//! A watcher is woken by notifications and reads events by their number in the history of the target, at any replica: none
//! is missed and none comes twice, whatever replica it was read from before. Snapshots of runs are read before the events:
//! a run that is seen ended has all its events behind it.

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
use super::status::{bad_field, no_run, of_store, target};
use crate::replica::Replica;
use crate::store;
use crate::store::runs::View;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(500);
/// The shortest time between two looks.
const BREATH: Duration = Duration::from_millis(15);
/// How long a watcher sleeps when nothing wakes it.
const SWEEP: Duration = Duration::from_secs(10);
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
    /// The runs that have been told of and had not ended.
    active: BTreeSet<i64>,
    told: BTreeMap<i64, View>,
    sequence: i64,
    outgoing: mpsc::Sender<Result<WatchRunsResponse, Status>>,
}

/// The receiver has gone.
struct Gone;

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
        active: named.iter().flatten().copied().collect(),
        named,
        told: BTreeMap::new(),
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
    if request.run_ids.is_empty() {
        return Ok((target(&request.target)?, None));
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
        let mut failures = 0;
        let mut seen = *news.borrow_and_update();
        let mut next_progress = Instant::now();
        let mut first = true;
        loop {
            let start = Instant::now();
            match self.look(first).await {
                Ok(Ok(true)) | Ok(Err(Gone)) => return Ok(()),
                Ok(Ok(false)) => {
                    failures = 0;
                    first = false;
                }
                Err(error) => {
                    failures += 1;
                    if failures >= FAILURES || !error.retryable() {
                        return Err(of_store(error));
                    }
                    sleep(REST).await;
                    continue;
                }
            }
            next_progress = next_progress.max(start + PROGRESS);
            sleep_until(start + BREATH).await;
            // Events are told at once, progress when its time has come.
            let sweep = Instant::now() + SWEEP;
            loop {
                let now = *news.borrow_and_update();
                if now.events != seen.events || (now.progress != seen.progress && Instant::now() >= next_progress) {
                    seen = now;
                    break;
                }
                let until = if now.progress == seen.progress { sweep } else { next_progress };
                let woken = timeout_at(until, news.changed()).await;
                if woken.is_err() && until == sweep {
                    break;
                }
            }
        }
    }

    /// Tells what is new. True when all that was named has ended.
    async fn look(&mut self, first: bool) -> Result<Result<bool, Gone>, store::Error> {
        let store = &self.replica.store;
        let views: Vec<View> = match &self.named {
            Some(ids) if first => store.runs_by_id(ids).await?,
            Some(_) => store.runs_by_id(&self.active.iter().copied().collect::<Vec<_>>()).await?,
            None => {
                let mut views = store.unfinished_runs(&self.target).await?;
                let now: BTreeSet<i64> = views.iter().map(|view| view.id).collect();
                let ended: Vec<i64> = self.active.difference(&now).copied().collect();
                if !ended.is_empty() {
                    views.extend(store.runs_by_id(&ended).await?);
                }
                views
            }
        };
        let mut current: BTreeMap<i64, View> = views.into_iter().map(|view| (view.id, view)).collect();
        if first {
            for view in current.values() {
                if self.send(Some(view), None).await.is_err() {
                    return Ok(Err(Gone));
                }
            }
            self.told = current.clone();
            if self.named.is_none() && self.sequence == 0 {
                self.active = current.keys().copied().collect();
            }
        }
        if let Err(gone) = self.tell_events(&mut current).await? {
            return Ok(Err(gone));
        }
        for (id, view) in &current {
            if self.told.get(id).is_some_and(|told| same(told, view)) {
                continue;
            }
            if self.send(Some(view), None).await.is_err() {
                return Ok(Err(Gone));
            }
        }
        self.active = current.iter().filter(|(_, view)| !view.state.ended()).map(|(id, _)| *id).collect();
        self.told = current.into_iter().filter(|(_, view)| !view.state.ended()).collect();
        Ok(Ok(self.named.is_some() && self.active.is_empty()))
    }

    async fn tell_events(&mut self, current: &mut BTreeMap<i64, View>) -> Result<Result<(), Gone>, store::Error> {
        loop {
            let store = &self.replica.store;
            let runs = self.named.as_deref();
            let events = store.events_after(&self.target, self.sequence, runs, EVENTS).await?;
            let full = i64::try_from(events.len()).unwrap_or(EVENTS) >= EVENTS;
            let unknown: BTreeSet<i64> =
                events.iter().map(|event| event.run_id).filter(|id| !current.contains_key(id)).collect();
            let unknown: Vec<i64> = unknown.into_iter().collect();
            let mut others: BTreeMap<i64, View> = BTreeMap::new();
            if !unknown.is_empty() {
                others.extend(store.runs_by_id(&unknown).await?.into_iter().map(|view| (view.id, view)));
            }
            for event in events {
                self.sequence = event.sequence;
                let view = current.get(&event.run_id).or_else(|| others.get(&event.run_id));
                if let Some(view) = view {
                    self.told.insert(view.id, view.clone());
                }
                if self.send(view, Some(convert::event_out(&event))).await.is_err() {
                    return Ok(Err(Gone));
                }
            }
            let started = others.into_iter().filter(|(_, view)| !view.state.ended());
            if self.named.is_none() {
                current.extend(started);
            }
            if !full {
                return Ok(Ok(()));
            }
        }
    }

    async fn send(&self, view: Option<&View>, event: Option<v1::Event>) -> Result<(), Gone> {
        let response = WatchRunsResponse { run: view.map(convert::run_out), event, sequence: self.sequence };
        self.outgoing.send(Ok(response)).await.map_err(|_| Gone)
    }
}

/// True when a run has not got on. Its speed alone, which falls while nothing happens, is no news.
fn same(told: &View, now: &View) -> bool {
    told.state == now.state
        && told.waits == now.waits
        && told.steps.len() == now.steps.len()
        && told.steps.iter().zip(&now.steps).all(|(told, now)| told.step == now.step)
}
