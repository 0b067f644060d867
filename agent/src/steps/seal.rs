//! The end of a migration: the checks after it, the registry row, and the end of its checkpoints, in one transaction.

use dunlin_proto::v1::SealTask;
use dunlin_shared::figures::counted;
use dunlin_shared::migration::mending::{Wanted, quoted};
use futures::future::try_join;
use serde_json::{Value, json};

use super::{Context, Ended, Error, check};
use crate::failpoint::{self, SEAL};
use crate::failure::Place;
use crate::frame::Durability;
use crate::ledger::{self, Address, Applied, Kind, Stale, Sums, Taken};
use crate::target::Connection;

pub(super) async fn run(context: &Context, task: &SealTask, again: bool) -> Result<Ended, Error> {
    let place = context.place("");
    let address = context.address(None, 0);
    let checksum = task.migration.as_ref().map_or("", |migration| migration.checksum.as_str());
    let mut connection = context.lend(&place).await?;
    let claim = context.claim(&address, Kind::Seal, checksum, again);
    let compared = match context.take(&mut connection, &claim, Durability::AtCommit, &place).await? {
        (Taken::Mine(_), compared) => compared,
        (Taken::Applied(applied), _) => return Ok(applied_before(context, *applied, again)),
        (Taken::Stale(stale), _) => return Err(Error::Stale(stale)),
        (Taken::OtherText, _) => return Err(Error::Moved),
    };
    let ended = execute(context, &mut connection, task, &address, &place).await;
    match ended {
        Ok(Ended::Done { .. }) => compared.tell(context),
        Ok(_) => {}
        Err(_) => connection.rollback().await,
    }
    ended
}

async fn execute(
    context: &Context,
    connection: &mut Connection,
    task: &SealTask,
    address: &Address,
    place: &Place,
) -> Result<Ended, Error> {
    let of_ledger = |error| Error::of_ledger(error, place);
    let of_postgres = |error| Error::of_postgres(&error, place);
    failpoint::at(connection, SEAL.taken).await.map_err(of_postgres)?;
    let steps: Vec<String> =
        task.migration.iter().flat_map(|migration| &migration.steps).map(|step| step.name.clone()).collect();
    let unfinished = ledger::unfinished_steps(connection, &context.migration, &steps).await.map_err(of_ledger)?;
    if !unfinished.is_empty() {
        return Err(super::context::put_back(&unfinished, place));
    }
    let (sums, stories) =
        try_join(ledger::sums(connection, &context.migration), ledger::stories(connection, &context.migration))
            .await
            .map_err(of_ledger)?;
    let applied = write(context, connection, task, address, &sums, stories, place).await;
    let applied = applied.map_err(|error| after_steps(context, place, error))?;
    failpoint::at(connection, SEAL.advanced).await.map_err(of_postgres)?;
    if context.lost() {
        connection.rollback().await;
        return Ok(Ended::Told);
    }
    connection.commit().await.map_err(of_postgres)?;
    failpoint::at(connection, SEAL.committed).await.map_err(of_postgres)?;
    Ok(Ended::Done { rows: sums.rows, rows_walked: 0, already_done: false, applied: Some(applied) })
}

/// A check that does not hold once the steps are done: running the migration again would skip them, so the ways are named that do not.
fn after_steps(context: &Context, place: &Place, error: Error) -> Error {
    let Error::Final(mut failed) = error else { return error };
    if failed.check.is_empty() || failed.next != place.mend() {
        return Error::Final(failed);
    }
    let run = format!("dunlin run {}", place.migration);
    let (repeatable, others): (Vec<&Wanted>, Vec<&Wanted>) =
        context.steps.iter().filter(|step| step.walks).partition(|step| step.idempotent);
    let redo = |steps: &[&Wanted]| {
        let options: Vec<String> = steps.iter().map(|step| format!("--redo {}", quoted(&step.name))).collect();
        format!("`{run} {}`", options.join(" "))
    };
    let mut ways = Vec::new();
    if !(repeatable.is_empty() && others.is_empty()) {
        let mut way =
            "If rows were written behind the walk, make sure that they are written right (a default, a trigger), then"
                .to_owned();
        if !repeatable.is_empty() {
            way.push_str(&format!(" {}", redo(&repeatable)));
        }
        if !others.is_empty() {
            let or = if repeatable.is_empty() { "" } else { ", or" };
            way.push_str(&format!("{or} {} if that may be repeated over rows that it has changed", redo(&others)));
        }
        ways.push(way);
    }
    ways.push(format!(
        "If a step was wrong, mend its text, `dunlin register DIR`, and carry it out again with `{run} --redo STEP`, or put the \
         difference into a new step behind it"
    ));
    ways.push(format!("If the data are wrong, mend them and `{run}`"));
    failed.next = format!("{}.", ways.join(". "));
    Error::Final(failed)
}

/// Everything that a migration ends with, up to the commit.
pub(super) async fn write(
    context: &Context,
    connection: &mut Connection,
    task: &SealTask,
    address: &Address,
    sums: &Sums,
    stories: Vec<Value>,
    place: &Place,
) -> Result<Box<dunlin_proto::v1::AppliedMigration>, Error> {
    let place = Place { step: String::new(), ..place.clone() };
    check::all(context, connection, &task.after, Durability::AtCommit, &place).await?;
    let Some(migration) = &task.migration else {
        return Err(Error::Final(place.refuse(
            "the controller sent the end of a migration without the migration",
            "Use a controller and agents of the same version.",
        )));
    };
    let result = result(migration, sums, stories);
    let (recorded, erased) = futures::future::join(
        ledger::record(connection, migration, context.run, context.agent.as_str(), sums.rows, &result),
        ledger::erase(connection, address, context.epoch.0, &context.mark()),
    )
    .await;
    let recorded = recorded.map_err(|error| Error::of_ledger(error, &place))?;
    match erased {
        Ok(()) => Ok(Box::new(report(recorded, context.target.name().as_str()))),
        Err(error) => Err(Error::of_ledger(error, &place)),
    }
}

fn result(migration: &dunlin_proto::v1::Migration, sums: &Sums, stories: Vec<Value>) -> Value {
    let under: Vec<&str> =
        migration.steps.iter().filter(|step| step.row_security).map(|step| step.name.as_str()).collect();
    let under = match under.as_slice() {
        [] => String::new(),
        steps => format!(", under row-level security (steps: {})", steps.join(", ")),
    };
    let unlooked: Vec<&str> =
        migration.steps.iter().filter(|step| step.batch_is_mine).map(|step| step.name.as_str()).collect();
    let mut result = json!({
        "success": true,
        "message": format!("{} is applied; {}{under}", migration.id, counted(sums.rows, "row was changed", "rows were changed")),
        "rows": sums.rows,
    });
    if let Value::Object(result) = &mut result {
        result.extend(sums.counters.clone());
        if !unlooked.is_empty() {
            result.insert("batch_is_mine".to_owned(), json!(unlooked));
        }
        if !stories.is_empty() {
            result.insert("mended".to_owned(), stories.into());
        }
    }
    result
}

fn report(applied: Applied, target: &str) -> dunlin_proto::v1::AppliedMigration {
    dunlin_proto::v1::AppliedMigration { target: target.to_owned(), ..applied.message }
}

/// The answer when the registry says that this run has applied the migration already: the answer to the commit was lost.
pub(super) fn applied_before(context: &Context, applied: Applied, again: bool) -> Ended {
    Ended::Done {
        rows: applied.message.rows,
        rows_walked: 0,
        already_done: !again,
        applied: Some(Box::new(report(applied, context.target.name().as_str()))),
    }
}

/// A task of a migration that its own run has finished in the meantime.
pub(super) fn overtaken(applied: &Applied) -> Error {
    Error::Stale(Stale { stored: None, applications: applied.applications })
}
