//! What agents say, in messages that a controller takes.
//!
//! A controller takes [`WORK_LIMIT`] bytes of an agent at a time. What a target has can be more, and so can be the ends of ranges: they
//! are told in parts. Texts are cut where the controller would cut them.
//!
//! What must stay true: the parts together say what the whole says, in its order.

use prost::Message as _;

use crate::v1::work_request::Message;
use crate::v1::{AppliedMigration, PlannedRange, RangesPlanned, RunError, TargetReport};

/// The longest message of an agent in bytes.
pub const WORK_LIMIT: usize = 4 * 1024 * 1024;

/// What a part is to have at most, unless one entry alone has more: far from the limit, since controllers take in many parts at once.
const PART: usize = 512 * 1024;

/// The longest text in bytes that is kept of an agent's message.
pub const TEXT_LIMIT: usize = 64 * 1024;

/// A text that is not longer than [`TEXT_LIMIT`]; the rest is cut off.
pub fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_LIMIT));
}

/// What a message says, in messages that each fit.
#[must_use]
pub fn fit(message: Message) -> Vec<Message> {
    match message {
        Message::Target(report) => pages(report).into_iter().map(Message::Target).collect(),
        Message::RangesPlanned(planned) => parts(planned).into_iter().map(Message::RangesPlanned).collect(),
        Message::Failed(mut failed) => {
            failed.error.iter_mut().for_each(cut_error);
            vec![Message::Failed(failed)]
        }
        Message::Released(mut released) => {
            cut(&mut released.message);
            vec![Message::Released(released)]
        }
        Message::Note(mut note) => {
            cut(&mut note.message);
            vec![Message::Note(note)]
        }
        Message::Done(mut done) => {
            done.applied.iter_mut().for_each(lighten);
            vec![Message::Done(done)]
        }
        Message::Heartbeat(mut beat) => {
            beat.leases.iter_mut().for_each(|lease| cut(&mut lease.waits));
            vec![Message::Heartbeat(beat)]
        }
        other @ (Message::Hello(_) | Message::Stale(_)) => vec![other],
    }
}

fn cut_error(error: &mut RunError) {
    let RunError { message, detail, hint, rows, next, context, .. } = error;
    for text in [message, detail, hint, rows, next, context] {
        cut(text);
    }
    if let Some(position) = &mut error.position {
        cut(&mut position.text);
    }
}

/// A registry row that alone would not fit goes without its result, which decides nothing.
fn lighten(row: &mut AppliedMigration) {
    if row.encoded_len() > PART {
        row.result = None;
    }
}

/// Those of some reports that fit into a `hello` together. The others are to follow, in pages where they must.
pub fn of_hello(reports: impl IntoIterator<Item = TargetReport>) -> Vec<TargetReport> {
    let mut room = 2 * PART;
    let fits = |report: &TargetReport| {
        let left = room.checked_sub(report.encoded_len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    reports.into_iter().filter(fits).collect()
}

/// The pages of a report. All of them have all of its fields; the rows and the steps are shared out.
#[must_use]
pub fn pages(mut report: TargetReport) -> Vec<TargetReport> {
    if report.encoded_len() <= PART {
        return vec![report];
    }
    cut(&mut report.error);
    report.applied.iter_mut().for_each(lighten);
    let applied = shared_out(std::mem::take(&mut report.applied), prost::Message::encoded_len);
    let held = shared_out(std::mem::take(&mut report.held), prost::Message::encoded_len);
    let with_applied =
        applied.into_iter().map(|applied| TargetReport { applied, more_follows: true, ..report.clone() });
    let with_held = held.into_iter().map(|held| TargetReport { held, more_follows: true, ..report.clone() });
    let mut pages: Vec<TargetReport> = with_applied.chain(with_held).collect();
    match pages.last_mut() {
        Some(last) => last.more_follows = false,
        None => pages.push(report),
    }
    pages
}

fn parts(planned: RangesPlanned) -> Vec<RangesPlanned> {
    if planned.encoded_len() <= PART {
        return vec![planned];
    }
    let RangesPlanned { lease, ranges, key } = planned;
    let parts = shared_out(ranges, PlannedRange::encoded_len);
    parts.into_iter().map(|ranges| RangesPlanned { lease, ranges, key: key.clone() }).collect()
}

fn shared_out<T>(entries: Vec<T>, length: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for entry in entries {
        // Its key and its length stand before it.
        let length = length(&entry) + 8;
        match parts.last_mut() {
            Some(part) if length <= room => part.push(entry),
            _ => {
                room = PART;
                parts.push(vec![entry]);
            }
        }
        room = room.saturating_sub(length);
    }
    parts
}

#[cfg(test)]
mod tests {
    use crate::v1::{HeldStep, Key, Lease, TaskNote};

    use super::*;

    #[test]
    fn the_pages_of_a_report_are_the_whole_in_its_order_and_each_fits() {
        let row = |number: i32| AppliedMigration {
            id: format!("migration-{number}"),
            version: number.into(),
            checksum: "x".repeat(64),
            ..AppliedMigration::default()
        };
        let step = |ordinal| HeldStep { name: "s".repeat(60), ordinal, ..HeldStep::default() };
        let whole = TargetReport {
            name: "main".to_owned(),
            reachable: true,
            raised: true,
            applied: (0..10_000).map(row).collect(),
            held: (0..10_000).map(step).collect(),
            ..TargetReport::default()
        };
        let pages = pages(whole.clone());
        assert!(pages.len() > 2, "{}", pages.len());
        let mut again = TargetReport { applied: Vec::new(), held: Vec::new(), ..whole.clone() };
        for (index, page) in pages.iter().enumerate() {
            assert!(page.encoded_len() < PART + 1024);
            assert_eq!(page.more_follows, index + 1 < pages.len());
            again.applied.extend(page.applied.clone());
            again.held.extend(page.held.clone());
        }
        assert_eq!(again, whole);
    }

    #[test]
    fn what_does_not_fit_into_a_hello_is_left_out_of_it() {
        let report = |name: &str, length| TargetReport {
            name: name.to_owned(),
            server_version: "v".repeat(length),
            ..TargetReport::default()
        };
        let reports = [report("a", 10), report("large", 2 * PART), report("b", PART), report("c", 10)];
        let names: Vec<String> = of_hello(reports).into_iter().map(|report| report.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn long_keys_and_long_texts_fit() {
        let key = |text: &str| Some(Key { values: vec![text.repeat(20_000)] });
        let range = |ordinal| PlannedRange { ordinal, low: key("l"), high: key("h"), ..PlannedRange::default() };
        let planned = RangesPlanned {
            lease: Some(Lease { task_id: 1, epoch: 1 }),
            ranges: (1..=1000).map(range).collect(),
            key: Vec::new(),
        };
        let parts = parts(planned.clone());
        assert!(parts.iter().all(|part| part.encoded_len() < PART + 1024 && part.lease == planned.lease));
        let together: Vec<PlannedRange> = parts.into_iter().flat_map(|part| part.ranges).collect();
        assert_eq!(together, planned.ranges);

        let note = TaskNote { message: "é".repeat(WORK_LIMIT), ..TaskNote::default() };
        let Some(Message::Note(note)) = fit(Message::Note(note)).pop() else { panic!("a note") };
        assert_eq!(note.message.len(), TEXT_LIMIT);
    }
}
