//! Whether the database behind a connection string is the target that its name says.
//!
//! The controller says so, once for each process, from what a look has read and before anything is written. From then on the agent knows
//! it again by itself, so that a controller that is away holds up no work: the same data at the same place, with a line that is not
//! behind what was seen. Every connection that is new is looked at so before it is worked with. What is not known again is told, and
//! the controller says what it is.

use dunlin_proto::v1::{Recognition, Verdict};
use uuid::Uuid;

use super::{Connection, Error, Target};
use crate::ledger::{self, Identity};

/// What the controller has said about the database.
#[derive(Debug, Default)]
pub(super) struct Recognised {
    /// The database that is the target, as it was seen last.
    accepted: Option<Identity>,
    /// The database in which is to be written which data it is.
    adopting: Option<(Identity, Uuid)>,
    /// Why it is not the target.
    refused: Option<String>,
}

/// What is said while no controller has answered yet.
const UNKNOWN: &str = "no controller has said yet that this database is the target";

impl Target {
    /// Takes in what the controller says about the database that was seen.
    pub(crate) fn recognise(&self, said: &Recognition) {
        let seen = said.seen.as_ref().map(Identity::try_from);
        let Some(Ok(seen)) = seen else {
            tracing::error!(target = %self.name, "the controller says of which database it speaks in no readable way; ignored");
            return;
        };
        let mut known = self.known();
        let recognised = &mut known.recognised;
        match (said.verdict(), Uuid::parse_str(&said.data)) {
            (Verdict::Accepted, _) => *recognised = Recognised { accepted: Some(seen), ..Recognised::default() },
            (Verdict::Adopt, Ok(data)) => {
                *recognised = Recognised { adopting: Some((seen, data)), ..Recognised::default() };
            }
            (Verdict::Refused, _) => {
                *recognised = Recognised { refused: Some(said.message.clone()), ..Recognised::default() };
                known.ledger = false;
                drop(known);
                self.log(Err(said.message.clone()));
                self.reached.send_replace(false);
                return;
            }
            (Verdict::Adopt | Verdict::Unspecified, _) => {
                tracing::error!(target = %self.name, "the controller says something unknown of a database; ignored");
                return;
            }
        }
        drop(known);
        self.suspect();
    }

    /// Which data is to be written into the database, where it is the one that the controller has said so about.
    pub(super) fn to_adopt(&self, found: &Identity) -> Option<Uuid> {
        let mut known = self.known();
        let recognised = &mut known.recognised;
        let (seen, data) = recognised.adopting.as_ref().filter(|(seen, _)| seen.place.same(&found.place))?;
        if found.data == seen.data {
            return Some(*data);
        }
        if found.data == Some(*data) {
            recognised.accepted = Some(found.clone());
        }
        recognised.adopting = None;
        None
    }

    /// The database that is the target, as it was seen last.
    pub(super) fn accepted(&self) -> Option<Identity> {
        self.known().recognised.accepted.clone()
    }

    /// Takes in how the target was seen last, where it is still the target.
    pub(super) fn saw(&self, found: &Identity) {
        if let Some(accepted) = &mut self.known().recognised.accepted
            && found.follows(accepted)
        {
            accepted.clone_from(found);
        }
    }

    /// Why the database is not worked on, where the controller has said so.
    pub(super) fn refused(&self) -> Option<String> {
        self.known().recognised.refused.clone()
    }

    /// Makes sure that a connection leads to the target.
    pub(super) async fn known_again(&self, connection: &Connection) -> Result<(), Error> {
        // Read before the database is, since others raise the line.
        let accepted = self.accepted();
        let found = match ledger::glance(connection).await {
            Ok(found) => Some(found),
            Err(error) if error.code().is_some() => None,
            Err(error) => return Err(Error::Unreachable(dunlin_shared::postgres::describe(&error))),
        };
        let same = found.zip(accepted).is_some_and(|(found, accepted)| found.follows(&accepted));
        if same {
            return Ok(());
        }
        self.forget();
        self.suspect();
        Err(Error::Unreachable(self.refused().unwrap_or_else(|| UNKNOWN.to_owned())))
    }
}

#[cfg(test)]
impl Target {
    /// Looks, takes the database for the target, as a controller does that has not heard of it, and looks again.
    pub(crate) async fn trust(&self, limit: std::time::Duration) -> dunlin_proto::v1::TargetReport {
        use futures::FutureExt;
        let report = self.report(limit).await;
        let Some(said) = crate::testing::recognition(&report) else { return report };
        self.recognise(&said);
        let _asked = self.suspected.notified().now_or_never();
        self.report(limit).await
    }

    /// Takes the database of a report for the target.
    pub(crate) fn accept(&self, report: &dunlin_proto::v1::TargetReport) {
        let seen = report.identity.as_ref().map(|seen| Identity::try_from(seen).unwrap());
        self.known().recognised = Recognised { accepted: Some(seen.unwrap()), ..Recognised::default() };
    }
}
