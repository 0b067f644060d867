//! Looking at a target: whether it answers, and whether it has what it had.
//!
//! A target can be put back to an earlier state, stopped, or made read-only while nobody works on it. So the agent looks
//! every few seconds, over a connection of its own, and at once when that connection is lost or something else is suspicious.
//! A look is cheap: a fingerprint of the registry, which is read and told only when the fingerprint has changed.
//!
//! What must stay true: nothing is written before the controller has said that this database is the target, and the ledger is made only
//! where it says so, too. A database whose ledger is gone is being restored, perhaps at this moment, and whoever makes tables in it
//! now spoils that.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dunlin_proto::convert::timestamp;
use dunlin_proto::v1::{HeldState, HeldStep, TargetIdentity, TargetReport};
use dunlin_shared::migration::mending::Held;
use dunlin_shared::postgres;
use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{Connection, Error, LONGEST_PAUSE, MENDING_PAUSE, Target, away, pauses, silent};
use crate::failure;
use crate::ledger::{self, Fingerprint, Identity, Place};

/// How long a look at a target may take.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The longest time between two looks, when nothing is suspicious.
const REST: Duration = Duration::from_secs(10);

/// The connection that looks, and what it has told.
#[derive(Debug, Default)]
pub(super) struct Eye {
    connection: Option<Connection>,
    /// Where the connection leads to.
    place: Option<Place>,
    /// True once the line was raised for the connection.
    raised: bool,
    told: Option<Sight>,
}

/// How a look has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// The target was reached.
    Reached,
    /// It was not, and can be at any time.
    Away,
    /// It was not, and cannot be before somebody mends something.
    Unfit,
}

/// What a look shows, in few bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sight {
    /// The database answers. Its registry, where it has a ledger; what it is; and whether it is the target.
    Reached(Option<Fingerprint>, Place, Option<Uuid>, bool),
    /// It does not, for this reason.
    Away(String),
}

impl Target {
    /// Looks at the target now and tells all about it.
    pub(crate) async fn report(&self, limit: Duration) -> TargetReport {
        let (report, _) = self.look(limit, true).await;
        report.unwrap_or_default()
    }

    /// What can be said of the target without waiting for longer than `limit`: of one that was away at the last look, that it
    /// is away, since [`watch`](Self::watch) is looking for it. `None` when the look takes longer.
    pub(crate) async fn report_soon(self: &Arc<Self>, limit: Duration) -> Option<TargetReport> {
        if let Ok(eye) = self.eye.try_lock()
            && let Some(Sight::Away(error)) = &eye.told
        {
            return Some(TargetReport { name: self.name.to_string(), error: error.clone(), ..TargetReport::default() });
        }
        let target = Arc::clone(self);
        // By itself, so that it is not given up in the middle.
        let look = tokio::spawn(async move { target.report(PROBE_LIMIT).await });
        timeout(limit, look).await.ok()?.ok()
    }

    /// Looks at the target for as long as it is polled, and tells each finding that says something new.
    pub(crate) async fn watch(&self, tell: impl Fn(TargetReport)) {
        loop {
            let suspected = tokio::select! {
                () = self.suspected.notified() => true,
                () = sleep(REST.mul_f64(0.5 + rand::random::<f64>() / 2.0)) => false,
            };
            let mut pauses = pauses(LONGEST_PAUSE);
            let mut whole = suspected;
            // A server that is busy may be late once, when nothing else speaks against it.
            let mut doubtful = suspected;
            loop {
                let (told, looked) = self.look(PROBE_LIMIT, whole).await;
                if looked != Looked::Away || doubtful {
                    if let Some(report) = told {
                        tell(report);
                    }
                } else {
                    doubtful = true;
                    self.eye.lock().await.told = None;
                }
                match looked {
                    Looked::Reached => break,
                    Looked::Away => sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await,
                    Looked::Unfit => self.mended().await,
                }
                // A stream that was opened meanwhile has not heard what was told before.
                whole = self.suspected.notified().now_or_never().is_some();
            }
        }
    }

    /// Waits until a file of the URL has changed, and no longer than a minute: the server itself can have been mended, too.
    async fn mended(&self) {
        let changed = async {
            loop {
                // One that cannot be read has changed for as long as that.
                sleep(LONGEST_PAUSE / 10).await;
                if self.connector.changed() {
                    break;
                }
            }
        };
        let limit = MENDING_PAUSE.mul_f64(0.75 + rand::random::<f64>() / 4.0);
        let _still_unfit = timeout(limit, changed).await;
    }

    /// Looks. `None` when nothing is new and `whole` does not ask for everything.
    pub(super) async fn look(&self, limit: Duration, whole: bool) -> (Option<TargetReport>, Looked) {
        let looking = async {
            let mut eye = self.eye.lock().await;
            let seen = eye.look(self, whole).await;
            if seen.is_err() {
                eye.connection = None;
            }
            let now = match &seen {
                Ok((sight, _)) => sight.clone(),
                Err(error) => Sight::Away(error.to_string()),
            };
            let new = eye.told.as_ref() != Some(&now);
            eye.told = Some(now);
            (seen.map(|(_, report)| report), new)
        };
        let (seen, new) = match timeout(limit, looking).await {
            Ok(looked) => looked,
            Err(_) => {
                let silent = silent(limit);
                let new = match self.eye.try_lock() {
                    Ok(mut eye) => {
                        // Whatever the connection waits for, it is of no use any more.
                        eye.connection = None;
                        let now = Some(Sight::Away(silent.clone()));
                        std::mem::replace(&mut eye.told, now.clone()) != now
                    }
                    // Another look is under way, and will tell.
                    Err(_) => whole,
                };
                (Err(Error::Unreachable(silent)), new)
            }
        };
        let looked = match &seen {
            Ok(_) => Looked::Reached,
            Err(Error::Unfit(_)) => Looked::Unfit,
            Err(_) => Looked::Away,
        };
        let reached = seen.is_ok();
        let found = match self.refused() {
            Some(refused) if reached => Err(refused),
            _ => seen.as_ref().map(|_| ()).map_err(ToString::to_string),
        };
        let fit = found.is_ok();
        self.log(found);
        self.reached.send_if_modified(|before| std::mem::replace(before, fit) != fit);
        let report = match seen {
            Ok(report) => report,
            Err(error) => Some(TargetReport { error: error.to_string(), ..TargetReport::default() }),
        };
        let name = self.name.to_string();
        let report = report.filter(|_| new || whole).map(|report| TargetReport { name, ..report });
        (report, looked)
    }
}

impl Target {
    /// Tells the log what is new: a target that refuses the agent stands there with the words of the server.
    pub(super) fn log(&self, found: Result<(), String>) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.as_ref() == Some(&found) {
            return;
        }
        match &found {
            Ok(()) => tracing::info!(target = %self.name, "the target is reached"),
            Err(error) => tracing::warn!(target = %self.name, "the target cannot be worked on: {error}"),
        }
        *logged = Some(found);
    }
}

impl Eye {
    /// Looks, and reads the whole registry where that is asked for, or the fingerprint is not the one that was told.
    async fn look(&mut self, target: &Target, whole: bool) -> Result<(Sight, Option<TargetReport>), Error> {
        let lost = |error: tokio_postgres::Error| Error::Unreachable(postgres::describe(&error));
        let of_ledger = |error: ledger::Error| Error::Unreachable(failure::chain(&error));
        let outdated = |connection: &Connection| connection.is_closed() || connection.outdated();
        if self.connection.as_ref().is_none_or(outdated) {
            // Whoever answers may be another.
            target.forget();
            (self.place, self.raised) = (None, false);
            self.connection = Some(connect(target, &target.suspected).await?);
        }
        let Self { connection: Some(client), place, raised, told: before } = self else {
            return Err(Error::Unreachable("there is no connection".to_owned()));
        };
        let owner = target.ledger_owner.as_deref();
        let mut survey = ledger::survey(client, owner).await.inspect_err(|error| {
            // Nothing more is begun there either.
            if matches!(error, ledger::PrepareError::Foreign { .. }) {
                target.forget();
            }
        })?;
        let here = match place {
            Some(place) => place.clone(),
            None => place.insert(ledger::place(client).await.map_err(lost)?).clone(),
        };
        let bare = || Identity { place: here.clone(), data: None, line: 0, mark: None };
        let read = async |client: &Connection| ledger::identity(client, here.clone()).await.map_err(lost);
        let mut found = if survey.ledger { read(client).await? } else { bare() };
        if let Some(data) = target.to_adopt(&found) {
            // Used up where this is given up half-way: its transaction would hold what others wait for.
            client.opening();
            ledger::prepare(client, owner, data).await?;
            ledger::adopt_identity(client, found.data, data).await.map_err(lost)?;
            client.closed();
            survey.ledger = true;
            found = read(client).await?;
            let _done = target.to_adopt(&found);
        }
        let is_target = target.accepted().is_some_and(|accepted| found.follows(&accepted));
        let mut whole = whole;
        if is_target {
            if !*raised {
                client.opening();
                if survey.behind && survey.ledger {
                    ledger::prepare(client, owner, Uuid::nil()).await?;
                }
                let (line, mark) = ledger::raise(client).await.map_err(lost)?;
                client.closed();
                (found.line, found.mark) = (line, Some(mark));
                (*raised, whole) = (true, true);
            }
            target.saw(&found);
            target.keep(survey.facts.clone());
        } else {
            target.forget();
        }
        let ledger = survey.ledger;
        let fingerprint = if ledger { Some(ledger::fingerprint(client).await.map_err(of_ledger)?) } else { None };
        let sight = Sight::Reached(fingerprint, here, found.data, is_target);
        if !whole && before.as_ref() == Some(&sight) {
            return Ok((sight, None));
        }
        let mut applied = if ledger { ledger::registry(client).await.map_err(of_ledger)? } else { Vec::new() };
        for row in &mut applied {
            row.target = target.name.to_string();
        }
        let mut report = TargetReport {
            reachable: true,
            server_version: survey.facts.version,
            applied,
            identity: Some(TargetIdentity::from(&found)),
            raised: is_target && *raised,
            ..TargetReport::default()
        };
        if ledger {
            let (time, held) = ledger::all_holdings(client).await.map_err(of_ledger)?;
            report.held_time = Some(timestamp(time));
            report.held = held.into_iter().map(|(migration, held)| told(migration, held)).collect();
        }
        Ok((sight, Some(report)))
    }
}

/// A step of a half-done migration, as controllers read it.
fn told(migration_id: String, held: Held) -> HeldStep {
    HeldStep {
        migration_id,
        name: held.name,
        was: held.was,
        ordinal: held.ordinal,
        checksum: held.checksum,
        walks: held.walks,
        state: HeldState::from(held.standing).into(),
        rows: held.rows,
        rows_walked: held.rows_walked,
        redo: held.redo,
    }
}

/// Connects, and has the target looked at again as soon as the connection is lost.
async fn connect(target: &Target, lost: &Arc<Notify>) -> Result<Connection, Error> {
    let mut session = target.connector.session().await.map_err(away)?;
    if let Some(ended) = session.ended() {
        let lost = Arc::clone(lost);
        tokio::spawn(async move {
            let _ended = ended.await;
            lost.notify_one();
        });
    }
    Ok(Connection::own(session, &target.connector))
}
