//! Reports of targets that come in several messages.
//!
//! What must stay true: nothing is done with a part, and parts that never become a whole are bounded: in bytes, in rows, in time, and
//! for all streams together. A stream on which that does not hold ends; its agent tells the whole again on the next.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dunlin_proto::status;
use dunlin_proto::v1::TargetReport;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::convert;
use super::status::{bad_field, bad_id};
use crate::store::following::Sight;

/// How long a report may take from its first page to its last.
const WITHIN: Duration = Duration::from_secs(30);

/// The most bytes of one report, and the most rows: of the registry, and steps of what is half done.
const BYTES: usize = 32 * 1024 * 1024;
const ROWS: usize = 100_000;

/// What the pages that wait for others may take in this process, in KiB, and what a row takes beside its bytes.
const ALL: usize = 64 * 1024;
const ROW: usize = 512;

static ROOM: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(ALL)));

/// The pages of a stream that wait for others.
#[derive(Debug, Default)]
pub(super) struct Pages {
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    sight: Sight,
    bytes: usize,
    until: Instant,
    _room: OwnedSemaphorePermit,
}

impl Pages {
    /// When the report that has begun is given up.
    pub(super) fn until(&self) -> Option<Instant> {
        self.begun.as_ref().map(|begun| begun.until)
    }

    /// The report that has begun was given up.
    pub(super) fn late() -> Status {
        let message =
            format!("target.more_follows: the next page of a report did not come within {} s", WITHIN.as_secs());
        status::error(Code::DeadlineExceeded, "INCOMPLETE_REPORT", message)
    }

    /// Takes a page. Gives the whole when it was the last.
    pub(super) fn take(&mut self, report: &TargetReport) -> Result<Option<Sight>, Status> {
        let bytes = report.encoded_len();
        let page = convert::sight_in(report).map_err(|error| bad_id("target.name", &error))?;
        let (mut whole, bytes, until, room) = match self.begun.take() {
            None if !report.more_follows => return Ok(Some(page)),
            None => {
                let room = room(bytes, &page)?;
                (page, bytes, Instant::now() + WITHIN, room)
            }
            Some(begun) if begun.sight.target != page.target => {
                let (first, other) = (&begun.sight.target, &page.target);
                return Err(bad_field(
                    "target.more_follows",
                    format!("a report of {other} came before the last page of that of {first}"),
                ));
            }
            Some(Begun { sight, bytes: before, until, _room: mut room }) => {
                room.merge(self::room(bytes, &page)?);
                (sight.followed_by(page), before + bytes, until, room)
            }
        };
        if bytes > BYTES || rows(&whole) > ROWS {
            let message = format!("a report has at most {BYTES} bytes and {ROWS} rows");
            return Err(bad_field("target.more_follows", message));
        }
        if !report.more_follows {
            return Ok(Some(whole));
        }
        whole.applied.shrink_to_fit();
        self.begun = Some(Begun { sight: whole, bytes, until, _room: room });
        Ok(None)
    }
}

fn rows(sight: &Sight) -> usize {
    sight.applied.len() + sight.held.as_ref().map_or(0, |(_, held)| held.len())
}

fn room(bytes: usize, page: &Sight) -> Result<OwnedSemaphorePermit, Status> {
    let kib = (bytes + rows(page) * ROW) / 1024 + 1;
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    Arc::clone(&ROOM).try_acquire_many_owned(kib).map_err(|_| {
        let message = "too many long reports are on their way to this controller; report again in a moment";
        status::error(Code::ResourceExhausted, "TOO_MANY_REPORTS", message)
    })
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::AppliedMigration;

    use super::*;

    fn page(target: &str, row: &str, more_follows: bool) -> TargetReport {
        let row = AppliedMigration { id: row.to_owned(), applications: 1, ..AppliedMigration::default() };
        TargetReport {
            name: target.to_owned(),
            reachable: true,
            applied: vec![row],
            more_follows,
            ..TargetReport::default()
        }
    }

    #[test]
    fn pages_are_nothing_until_they_are_a_whole() {
        let mut pages = Pages::default();
        assert_eq!(pages.take(&page("main", "a", true)).unwrap(), None);
        assert!(pages.until().is_some());
        assert_eq!(pages.take(&page("main", "b", true)).unwrap(), None);
        let whole = pages.take(&page("main", "c", false)).unwrap().unwrap();
        let ids: Vec<&str> = whole.applied.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        assert_eq!(pages.until(), None);
        assert_eq!(pages.take(&page("main", "d", false)).unwrap().unwrap().applied.len(), 1);
    }

    #[test]
    fn pages_of_two_targets_do_not_mix() {
        let mut pages = Pages::default();
        pages.take(&page("main", "a", true)).unwrap();
        assert_eq!(pages.take(&page("other", "b", false)).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn pages_that_never_end_are_refused() {
        let mut pages = Pages::default();
        let mut endless = page("main", "a", true);
        endless.applied = vec![endless.applied[0].clone(); 10_000];
        let refused = (0..=ROWS / 10_000).find_map(|_| pages.take(&endless).err()).unwrap();
        assert!(matches!(refused.code(), Code::InvalidArgument | Code::ResourceExhausted), "{refused:?}");
        assert_eq!(pages.until(), None, "they are kept");
    }
}
