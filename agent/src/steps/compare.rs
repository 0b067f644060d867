//! Taking what begins a step, goes on with one, or ends a migration: the definition's steps are compared with those that the target
//! holds, in the transaction that takes the task.
//!
//! The target has the last word here, since a controller's picture can be old. Whoever takes holds the steps of the migration until
//! its transaction ends, so nobody begins the same step under another name meanwhile. What is refused leaves nothing behind; what is
//! renamed, begun again or goes on with another text is so in the same transaction, and an older lease finds its rows no more, or
//! under a newer epoch.

use dunlin_proto::v1::EventType;
use dunlin_shared::figures::rows;
use dunlin_shared::migration::mending::{self, Asked, Fate, Held, Standing, Wanted};
use futures::future::join3;

use super::Context;
use crate::failure::Place;
use crate::frame::Durability;
use crate::ledger::{self, Claim, Holding, Kind, Request, State, Taken};
use crate::target::Connection;

/// Why a task could not be taken.
#[derive(Debug)]
pub(super) enum Error {
    /// The ledger.
    Ledger(ledger::Error),
    /// The definition does not fit what the target holds, or the target lacks what the run has seen there.
    Refused(super::Error),
}

impl From<ledger::Error> for Error {
    fn from(error: ledger::Error) -> Self {
        Self::Ledger(error)
    }
}

/// How the steps of the definition stand in the target, each in its place.
#[derive(Debug, Default)]
pub(super) struct Compared {
    steps: Vec<(Fate, Option<Holding>)>,
    /// What the history is told of once it is committed.
    notes: Vec<String>,
}

impl Compared {
    /// What becomes of a step, by its place from 0.
    pub(super) fn fate(&self, place: usize) -> Fate {
        self.steps.get(place).map_or(Fate::Work, |(fate, _)| *fate)
    }

    /// What the target holds of a step, by its place from 0.
    pub(super) fn holding(&self, place: usize) -> Option<&Holding> {
        self.steps.get(place).and_then(|(_, holding)| holding.as_ref())
    }

    /// Notes something for the history.
    pub(super) fn note(&mut self, sentence: String) {
        self.notes.push(sentence);
    }

    /// Where to note something for the history.
    pub(super) fn notes(&mut self) -> &mut Vec<String> {
        &mut self.notes
    }

    /// Tells the history what has become of the steps: it is committed.
    pub(super) fn tell(self, context: &Context) {
        for note in self.notes {
            context.lease.note(EventType::AgentNote, note);
        }
    }

    /// True when the target holds any of the steps.
    pub(super) fn anything_held(&self) -> bool {
        self.steps.iter().any(|(_, holding)| holding.is_some())
    }
}

/// Begins a transaction, compares, and takes the task. The transaction is open afterwards, however it ends.
pub(super) async fn take(
    context: &Context,
    connection: &mut Connection,
    claim: &Claim,
    durability: Durability,
    place: &Place,
) -> Result<(Taken, Compared), Error> {
    let frame = if claim.kind == Kind::Statement { context.frame_of_statement() } else { context.frame() };
    let begin = frame.begin(durability);
    connection.opening();
    // Sent together, executed one after the other: what is looked at is as it is once nobody else holds the steps.
    let (begun, held, holdings) = join3(
        connection.simple_query(&begin),
        ledger::hold(connection, &context.migration),
        ledger::holdings(connection, &context.migration),
    )
    .await;
    begun.map_err(ledger::Error::from)?;
    held?;
    let holdings = holdings?;
    let mut compared = compare(context, connection, holdings, place).await?;
    let own = claim.ordinal.and_then(|ordinal| usize::try_from(ordinal - 1).ok());
    let before = match (own, claim.kind) {
        (Some(own), _) => own,
        // What ends a migration comes behind all of its steps.
        (None, Kind::Seal) => compared.steps.len(),
        (None, Kind::Statement | Kind::Plan | Kind::Range) => 0,
    };
    let unfinished: Vec<String> = (0..before)
        .filter(|place| compared.fate(*place) != Fate::Skip)
        .filter_map(|place| context.steps.get(place).map(|step| step.name.clone()))
        .collect();
    let mut taken = ledger::take(connection, claim).await?;
    let Taken::Mine(checkpoint) = &mut taken else { return Ok((taken, compared)) };
    if !unfinished.is_empty() {
        return Err(Error::Refused(super::context::put_back(&unfinished, place)));
    }
    let Some((own, holding)) = own.and_then(|own| Some((own, compared.holding(own)?.clone()))) else {
        return Ok((taken, compared));
    };
    checkpoint.untouched = holding.held.standing == Standing::Prepared;
    match compared.fate(own) {
        Fate::Work | Fate::Skip => {}
        Fate::Again => {
            checkpoint.fence = again(context, connection, claim, &holding, &mut compared.notes).await?;
            checkpoint.again = holding.held.standing != Standing::Prepared || claim.redo.is_some();
            checkpoint.untouched = true;
            checkpoint.state = State::Open;
            (checkpoint.key, checkpoint.cursor) = (None, None);
            (checkpoint.rows, checkpoint.rows_walked, checkpoint.rows_total) = (0, 0, 0);
        }
        Fate::Adopt => {
            checkpoint.fence = ledger::adopt(connection, claim, &holding, &request(context)).await?;
            compared.notes.push(format!(
                "the step {:?} goes on with another text{}: {} were walked with the old one",
                claim.address.step_text(),
                why(context),
                rows(holding.held.rows_walked)
            ));
        }
    }
    Ok((taken, compared))
}

/// Puts the step that was taken back to its beginning, and tells so. Returns the fence of its ranges.
pub(super) async fn again(
    context: &Context,
    connection: &Connection,
    claim: &Claim,
    holding: &Holding,
    notes: &mut Vec<String>,
) -> Result<i64, ledger::Error> {
    let begun = holding.held.standing != Standing::Prepared;
    // What has changed nothing is not carried out again, unless that is what was asked for: a name for it keeps it from being put back
    // a second time.
    let redo = (begun || claim.redo.is_some()).then_some(context.mending.request_id.as_str());
    let fence = ledger::begin_again(connection, claim, holding, redo, &request(context)).await?;
    if begun {
        let asked = if claim.redo.is_some() {
            why(context)
        } else {
            ": it may be repeated, and its text has changed".to_owned()
        };
        notes.push(format!("the step {:?} is carried out again from its beginning{asked}", claim.address.step_text()));
    }
    Ok(fence)
}

async fn compare(
    context: &Context,
    connection: &Connection,
    holdings: Vec<Holding>,
    place: &Place,
) -> Result<Compared, Error> {
    let held: Vec<Held> = holdings.iter().map(|holding| holding.held.clone()).collect();
    let mending = &context.mending;
    let asked = Asked { request: &mending.request_id, redo: &mending.redo_steps, go_on: &mending.continue_steps };
    let plan = mending::compare(&context.steps, &held, asked).map_err(|refusal| {
        let run = format!("dunlin run {}", context.migration);
        let place = Place { step: refusal.step().to_owned(), ..place.clone() };
        Error::Refused(super::Error::Final(place.refuse(refusal.describe("the target"), refusal.next(&run))))
    })?;
    ledger::rename(connection, &context.migration, &plan).await?;
    let notes = plan.renamed.iter().map(|(old, new)| format!("the step {old:?} is called {new:?} now")).collect();
    let find = |step: &Wanted| {
        let old = plan.renamed.iter().find(|(_, new)| *new == step.name).map_or(&step.name, |(old, _)| old);
        // A name that another step has given up is that of the step that it was.
        let given_up = old == &step.name && plan.renamed.iter().any(|(old, _)| *old == step.name);
        holdings.iter().find(|holding| !given_up && holding.held.name == *old).cloned()
    };
    let steps = context.steps.iter().zip(&plan.fates).map(|(step, fate)| (*fate, find(step))).collect();
    Ok(Compared { steps, notes })
}

fn request(context: &Context) -> Request {
    Request { run: context.run.0, reason: context.mending.reason.clone(), by: context.mending.requested_by.clone() }
}

/// ` (by ann: the rate was wrong)`, or nothing.
fn why(context: &Context) -> String {
    let (by, reason) = (&context.mending.requested_by, &context.mending.reason);
    match (by.as_str(), reason.as_str()) {
        ("", "") => String::new(),
        ("", reason) => format!(" ({reason})"),
        (by, "") => format!(" (by {by})"),
        (by, reason) => format!(" (by {by}: {reason})"),
    }
}
