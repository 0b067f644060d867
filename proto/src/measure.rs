//! What a message takes in memory, found out from its bytes before it is built.
//!
//! An entry of a list is two bytes on the wire and a whole struct in memory, 125 times as much and more: a message within every
//! limit of bytes could end a process. So requests are walked through first, by the shapes that the protos give them, and one that would
//! grow out of proportion is refused. That holds for every message of the protocol, those to come included.
//!
//! What must stay true: nothing of a request is built before this has passed. Texts are not counted, they are as large as on the wire. Where
//! bytes are no message the walk ends, and decoding says what is wrong.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::DESCRIPTORS;

/// What a message may take beside its texts: some for each byte of it, and never more than the most.
const BASE: usize = 64 * 1024;
const FACTOR: usize = 32;
const MOST: usize = 16 * 1024 * 1024;

/// Messages in messages: as deep as decoding goes.
const DEPTH: usize = 100;

/// A `String`, a `Vec` or a `HashMap`, and what lies behind a text that is not empty.
const TEXT: usize = 24;
const MAP: usize = 48;
const ALLOCATED: usize = 16;
/// Any number, and a pointer.
const NUMBER: usize = 8;

/// A message would take too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the message has {bytes} bytes, and its entries would take more than {room} bytes: they are too many; say it in several messages"
)]
pub struct Error {
    /// Its bytes.
    bytes: usize,
    /// What its entries may take.
    room: usize,
}

/// Refuses a message that would take too much.
///
/// # Errors
/// It would.
pub(crate) fn measure(message: &str, bytes: &[u8]) -> Result<(), Error> {
    let room = MOST.min(BASE + FACTOR * bytes.len());
    let Some(shape) = SHAPES.names.get(message) else { return Ok(()) };
    let mut left = room;
    match SHAPES.walk(*shape, bytes, &mut left, DEPTH) {
        Ok(()) | Err(Stop::NoMessage) => Ok(()),
        Err(Stop::TooMuch) => Err(Error { bytes: bytes.len(), room }),
    }
}

/// Why a walk ends early.
enum Stop {
    NoMessage,
    TooMuch,
}

/// The shapes of all messages.
struct Shapes {
    names: HashMap<String, usize>,
    shapes: Vec<Shape>,
}

#[derive(Default)]
struct Shape {
    /// Those fields that can take more than stands on the wire.
    fields: BTreeMap<u32, Field>,
    /// How many of them are lists.
    lists: usize,
}

struct Field {
    /// Its place among the lists, and what an entry takes.
    list: Option<(usize, usize)>,
    what: What,
}

enum What {
    Message(usize),
    Text,
    Numbers,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    // They are those that this crate was built from.
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let mut all = BTreeMap::new();
    for file in &files.file {
        collect(file.package(), &file.message_type, &mut all);
    }
    Shapes::of(&all)
});

fn collect<'a>(within: &str, messages: &'a [DescriptorProto], all: &mut BTreeMap<String, &'a DescriptorProto>) {
    for message in messages {
        let name = format!("{within}.{}", message.name());
        collect(&name, &message.nested_type, all);
        all.insert(name, message);
    }
}

type All<'a> = BTreeMap<String, &'a DescriptorProto>;

impl Shapes {
    fn of(all: &All<'_>) -> Self {
        let names: HashMap<String, usize> = all.keys().cloned().zip(0..).collect();
        let shapes = all.values().map(|message| {
            let mut shape = Shape::default();
            for field in &message.field {
                let what = match field.r#type() {
                    Type::Message => match names.get(name(field)) {
                        Some(message) => What::Message(*message),
                        None => continue,
                    },
                    Type::String | Type::Bytes => What::Text,
                    _ => What::Numbers,
                };
                let list = (field.label() == Label::Repeated).then(|| {
                    shape.lists += 1;
                    let entry = match what {
                        What::Message(_) => size(all, name(field), &mut Vec::new()),
                        What::Text => TEXT + ALLOCATED,
                        What::Numbers => NUMBER,
                    };
                    (shape.lists - 1, entry)
                });
                if list.is_some() || matches!(what, What::Message(_)) {
                    shape.fields.insert(u32::try_from(field.number()).unwrap_or(0), Field { list, what });
                }
            }
            shape
        });
        let shapes = shapes.collect();
        Self { names, shapes }
    }

    fn walk(&self, shape: usize, mut bytes: &[u8], left: &mut usize, depth: usize) -> Result<(), Stop> {
        let Some(shape) = self.shapes.get(shape).filter(|_| depth > 0) else { return Err(Stop::NoMessage) };
        let mut counts = vec![0; shape.lists];
        let broken = |_| Stop::NoMessage;
        while bytes.has_remaining() {
            let (tag, wire) = decode_key(&mut bytes).map_err(broken)?;
            let Some(field) = shape.fields.get(&tag) else {
                skip_field(wire, tag, &mut bytes, DecodeContext::default()).map_err(broken)?;
                continue;
            };
            let part = if wire == WireType::LengthDelimited {
                let length = decode_varint(&mut bytes).map_err(broken)?;
                let length = usize::try_from(length).map_err(|_| Stop::NoMessage)?;
                let (part, rest) = bytes.split_at_checked(length).ok_or(Stop::NoMessage)?;
                bytes = rest;
                part
            } else {
                skip_field(wire, tag, &mut bytes, DecodeContext::default()).map_err(broken)?;
                &[]
            };
            if let Some((list, entry)) = field.list {
                // Numbers come packed, a byte each at least.
                let more = if matches!(field.what, What::Numbers) { part.len().max(1) } else { 1 };
                let count = counts.get_mut(list).ok_or(Stop::NoMessage)?;
                let before = capacity(*count);
                *count += more;
                let taken = (capacity(*count) - before).saturating_mul(entry);
                *left = left.checked_sub(taken).ok_or(Stop::TooMuch)?;
            }
            if let What::Message(message) = field.what {
                self.walk(message, part, left, depth - 1)?;
            }
        }
        Ok(())
    }
}

/// A list grows by doubling.
fn capacity(count: usize) -> usize {
    if count == 0 { 0 } else { count.next_power_of_two().max(4) }
}

fn name(field: &FieldDescriptorProto) -> &str {
    field.type_name().trim_start_matches('.')
}

/// What a message takes where it lies in a list, with all that lies within it and not behind a pointer.
fn size(all: &All<'_>, message: &str, within: &mut Vec<String>) -> usize {
    let Some(descriptor) = all.get(message) else { return NUMBER };
    // Behind a pointer.
    if within.iter().any(|outer| outer == message) {
        return NUMBER;
    }
    within.push(message.to_owned());
    let mut choices: BTreeMap<i32, usize> = BTreeMap::new();
    let mut sum = 0;
    for field in &descriptor.field {
        let of_field = match (field.label(), field.r#type()) {
            (Label::Repeated, Type::Message) if is_map(all, field) => MAP,
            (Label::Repeated, _) | (_, Type::String | Type::Bytes) => TEXT,
            (_, Type::Message) => size(all, name(field), within) + NUMBER,
            _ => NUMBER,
        };
        match field.oneof_index.filter(|_| !field.proto3_optional()) {
            Some(choice) => {
                let largest = choices.entry(choice).or_default();
                *largest = (*largest).max(of_field);
            }
            None => sum += of_field,
        }
    }
    within.pop();
    sum + choices.values().map(|largest| largest + NUMBER).sum::<usize>()
}

fn is_map(all: &All<'_>, field: &FieldDescriptorProto) -> bool {
    all.get(name(field)).is_some_and(|entry| entry.options.as_ref().is_some_and(|options| options.map_entry()))
}

#[cfg(test)]
mod tests {
    use crate::v1::{self, work_request};

    use super::*;

    const REQUEST: &str = "dunlin.v1.WorkRequest";

    fn said(message: work_request::Message) -> Vec<u8> {
        v1::WorkRequest { message: Some(message) }.encode_to_vec()
    }

    #[test]
    fn an_entry_takes_no_more_than_is_counted_for_it() {
        let counted = |name: &str| {
            let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
            let mut all = BTreeMap::new();
            files.file.iter().for_each(|file| collect(file.package(), &file.message_type, &mut all));
            size(&all, name, &mut Vec::new())
        };
        for (name, takes) in [
            ("dunlin.v1.TargetReport", size_of::<v1::TargetReport>()),
            ("dunlin.v1.AppliedMigration", size_of::<v1::AppliedMigration>()),
            ("dunlin.v1.LeaseProgress", size_of::<v1::LeaseProgress>()),
            ("dunlin.v1.PlannedRange", size_of::<v1::PlannedRange>()),
            ("dunlin.v1.HeldStep", size_of::<v1::HeldStep>()),
            ("dunlin.v1.DefinitionFile", size_of::<v1::DefinitionFile>()),
            ("dunlin.v1.WorkRequest", size_of::<v1::WorkRequest>()),
            ("google.protobuf.Value", size_of::<pbjson_types::Value>()),
        ] {
            let counted = counted(name);
            assert!(takes <= counted && counted <= takes * 2, "{name} takes {takes} and counts {counted}");
        }
    }

    #[test]
    fn empty_entries_are_refused_wherever_they_stand_and_what_says_something_passes() {
        let reports = |report: v1::TargetReport, count| {
            let targets = vec![report; count];
            said(work_request::Message::Hello(v1::Hello { targets, ..v1::Hello::default() }))
        };
        let empty = v1::TargetReport::default();
        assert!(measure(REQUEST, &reports(empty.clone(), 100_000)).is_err());
        assert!(measure(REQUEST, &reports(empty, 100)).is_ok());
        let rows = v1::TargetReport { applied: vec![v1::AppliedMigration::default(); 1000], ..Default::default() };
        assert!(measure(REQUEST, &said(work_request::Message::Target(rows))).is_err());
        let named = |number| v1::TargetReport { name: format!("target-{number}"), ..Default::default() };
        let targets = (0..10_000).map(named).collect();
        let hello = said(work_request::Message::Hello(v1::Hello { targets, ..v1::Hello::default() }));
        assert_eq!(measure(REQUEST, &hello), Ok(()));
        let lease = |task_id| v1::LeaseProgress { lease: Some(v1::Lease { task_id, epoch: 1 }), ..Default::default() };
        let leases = (1..=1000).map(lease).collect();
        assert_eq!(measure(REQUEST, &said(work_request::Message::Heartbeat(v1::Heartbeat { leases }))), Ok(()));
    }

    #[test]
    fn lists_in_lists_are_counted_too() {
        let value = (0..40).fold(pbjson_types::Value::default(), |inner, _| {
            let list = pbjson_types::ListValue { values: vec![inner; 2] };
            // Two of two of two would be too many to make: one of them is empty.
            let mut list = list;
            list.values.truncate(1);
            list.values.resize(50, pbjson_types::Value::default());
            pbjson_types::Value { kind: Some(pbjson_types::value::Kind::ListValue(list)) }
        });
        let result = pbjson_types::Struct { fields: [("x".to_owned(), value)].into() };
        let row = v1::AppliedMigration { result: Some(result), ..Default::default() };
        let report = v1::TargetReport { applied: vec![row; 300], ..Default::default() };
        assert!(measure(REQUEST, &said(work_request::Message::Target(report))).is_err());
    }

    #[test]
    fn what_is_no_message_is_left_to_decoding() {
        for bytes in [&[0x07][..], &[0x0a, 0xff, 0xff, 0xff, 0x0f], &[0x0b; 1000], &[0x0a, 0x02, 0x22]] {
            assert_eq!(measure(REQUEST, bytes), Ok(()));
        }
    }
}
