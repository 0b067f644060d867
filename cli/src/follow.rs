//! Following runs to their end, over whatever happens to the controllers meanwhile.
//!
//! A stream that breaks is taken up again, at any other controller, behind the last event that was seen: nothing is told
//! twice and nothing is missed. The runs do not depend on being followed, so giving up (after `patience` from the loss of the
//! connection, each time anew) only ends the telling, and the error says how to take it up.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_proto::client::{self, Order};
use dunlin_proto::v1::{EventType, Run, WatchRunsRequest, WatchRunsResponse};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::tell;
use crate::render::progress::{Progress, Scope};
use crate::render::words;

/// The first pause before another try; each further one is twice as long, up to [`LONGEST_PAUSE`]. Between half of it and all
/// of it is waited: those who lost the same controller do not come to the next at the same moment.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a stream in which nothing is heard must last to count as a connection: longer than a controller goes on with one when its
/// database is away.
const STEADY: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });

/// What is followed, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Follow {
    /// The target; may be empty when runs are named.
    pub(crate) target: String,
    /// The runs. Empty: all of the target, without end.
    pub(crate) run_ids: Vec<i64>,
    /// The runs as far as they are known already.
    pub(crate) known: Vec<Run>,
    /// Events up to this number in the history of the target are not told.
    pub(crate) after_sequence: i64,
    /// A controller has answered already. Otherwise a first try that fails is the end: the address may be wrong.
    pub(crate) answered: bool,
    /// How long to go on trying once the connection is lost.
    pub(crate) patience: Duration,
    /// Tell also how the work is done inside.
    pub(crate) verbose: bool,
}

/// Why a run was cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// It waited for a run that has not succeeded.
    Behind,
    /// For a reason of its own.
    Because(String),
}

/// How runs stand after they were followed.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    runs: BTreeMap<i64, Run>,
    /// Why runs were cancelled.
    pub(crate) reasons: BTreeMap<i64, Cancelled>,
    sequence: i64,
}

impl Followed {
    /// The runs in the order of their numbers.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.values().cloned().collect()
    }

    fn take(&mut self, response: WatchRunsResponse, progress: &mut Progress) {
        let Some(run) = response.run else { return };
        progress.update(&run, response.event.as_ref());
        if let Some(event) = response.event.filter(|event| event.r#type() == EventType::RunCancelled) {
            let behind = event.details.as_ref().is_some_and(|details| details.fields.contains_key("waited_for_run"));
            let reason = if behind { Cancelled::Behind } else { Cancelled::Because(event.message) };
            self.reasons.insert(run.id, reason);
        }
        self.sequence = self.sequence.max(response.sequence);
        self.runs.insert(run.id, run);
    }

    fn complete(&self, run_ids: &[i64]) -> bool {
        let ended = |id| self.runs.get(id).is_some_and(|run| words::ended(run.state()));
        !run_ids.is_empty() && run_ids.iter().all(ended)
    }
}

/// Follows runs to their end.
///
/// # Errors
/// No controller answers for `patience`, one refuses, or Ctrl-C.
pub(crate) async fn follow(controllers: &Controllers, what: &Follow) -> Result<Followed, Error> {
    let mut progress = Progress::new(Scope { endless: what.run_ids.is_empty(), verbose: what.verbose });
    progress.expect(&what.known);
    let mut followed = Followed { sequence: what.after_sequence, ..Followed::default() };
    let outcome = tokio::select! {
        outcome = attempts(controllers, what, &mut followed, &mut progress) => outcome,
        _ = tokio::signal::ctrl_c() => {
            progress.finish();
            if !followed.complete(&what.run_ids) && !what.run_ids.is_empty() {
                tell(&goes_on(what));
            }
            Err(Error::Interrupted)
        }
    };
    progress.finish();
    outcome.map(|()| followed)
}

/// How a stream is opened.
struct Opening<'a> {
    order: &'a mut Order,
    /// When there is no patience left.
    until: Option<Instant>,
}

/// What a try to follow has come to.
#[derive(Debug, Default)]
struct Attempt {
    /// When the stream was opened.
    opened: Option<Instant>,
    /// Whether something was heard in it.
    heard: bool,
}

impl Attempt {
    /// Whether there was a connection. One in which nothing is said counts once it has lasted: there may be nothing to say, and a
    /// controller whose database is away closes what it has opened.
    fn connected(&self) -> bool {
        self.heard || self.opened.is_some_and(|opened| opened.elapsed() >= STEADY)
    }

    /// One stream, to its end.
    async fn follow(
        &mut self,
        controllers: &Controllers,
        what: &Follow,
        opening: Opening<'_>,
        followed: &mut Followed,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        let Opening { order, until } = opening;
        let request = WatchRunsRequest {
            run_ids: what.run_ids.clone(),
            target: what.target.clone(),
            after_sequence: followed.sequence,
            all: what.run_ids.is_empty(),
        };
        let open = async {
            let choice = controllers.choose(order).await?;
            *order = Order::Random { last: Some(choice.url) };
            Ok::<_, Error>(client::runs(choice.channel).watch_runs(request).await?.into_inner())
        };
        let mut stream = match until {
            None => open.await?,
            Some(until) => timeout_at(until, open)
                .await
                .map_err(|_| Error::Unreachable(format!("no controller answers at {}", controllers.urls())))??,
        };
        self.opened = Some(Instant::now());
        while let Some(response) = stream.message().await? {
            self.heard = true;
            followed.take(response, progress);
        }
        Ok(())
    }
}

async fn attempts(
    controllers: &Controllers,
    what: &Follow,
    followed: &mut Followed,
    progress: &mut Progress,
) -> Result<(), Error> {
    let mut order = Order::AsNamed;
    let mut pause = FIRST_PAUSE;
    let mut answered = what.answered;
    let mut lost: Option<Instant> = None;
    loop {
        let mut attempt = Attempt::default();
        let opening = Opening { order: &mut order, until: lost.map(|since| since + what.patience) };
        let error = match attempt.follow(controllers, what, opening, followed, progress).await {
            Ok(()) if followed.complete(&what.run_ids) => return Ok(()),
            Ok(()) => Error::Unreachable("the controller ended the stream too early".to_owned()),
            Err(error) if error.passes() => error,
            Err(error) => return Err(error),
        };
        let connected = attempt.connected();
        if !connected && !answered {
            return Err(error);
        }
        answered = true;
        // Counted from the loss, however often it was tried again since; a connection in between is the end of that loss.
        let since = match lost {
            Some(since) if !connected => since,
            _ => {
                progress
                    .note("The connection to the controller is lost; connecting again. What runs goes on meanwhile.");
                pause = FIRST_PAUSE;
                *lost.insert(Instant::now())
            }
        };
        let left = what.patience.saturating_sub(since.elapsed());
        if left.is_zero() {
            let patience = humantime::format_duration(what.patience);
            let goes_on = goes_on(what);
            return Err(Error::Unreachable(format!("{error}\nThe connection was lost {patience} ago. {goes_on}")));
        }
        sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0).min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What becomes of runs that are not followed any more.
fn goes_on(what: &Follow) -> String {
    let ids: Vec<String> = what.run_ids.iter().map(ToString::to_string).collect();
    match what.run_ids.as_slice() {
        [] => format!("What runs goes on; `dunlin status -t {}` tells how it stands.", what.target),
        [id] => format!("Run {id} goes on; `dunlin watch {id}` follows it again."),
        _ => format!("The runs go on; `dunlin watch {}` follows them again.", ids.join(" ")),
    }
}

#[cfg(test)]
mod tests;
