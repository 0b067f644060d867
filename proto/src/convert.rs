//! Conversions between messages and what `dunlin-shared` knows.
//!
//! Into messages they cannot fail. Out of messages they check what the types of `dunlin-shared` promise, and an [`Error`]
//! names the field. A number that is 0 in a message and optional in the domain is `None` there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dunlin_shared::ids::{self, MigrationId, StepName, TransformName};
use dunlin_shared::key::{KeyBound, KeyColumn, KeyRange};
use dunlin_shared::migration::mending::{Standing, Wanted};
use dunlin_shared::migration::{Batch, Changes, Check, Definition, Isolation, PlanRule, Step, StepBody, Version};

use crate::v1;

/// A message that breaks the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Error {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Error {
    fn new(field: &'static str, reason: impl ToString) -> Self {
        Self { field, reason: reason.to_string() }
    }

    fn missing(field: &'static str) -> Self {
        Self::new(field, "it is missing")
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        crate::status::invalid("INVALID_MESSAGE", error.to_string(), [(error.field, error.reason.as_str())])
    }
}

fn id<T>(field: &'static str, parsed: Result<T, ids::Error>) -> Result<T, Error> {
    parsed.map_err(|error| Error::new(field, error))
}

impl From<&Definition> for v1::Migration {
    /// Leaves out the text and the times, which the registry keeps.
    fn from(definition: &Definition) -> Self {
        Self {
            id: definition.id.to_string(),
            name: definition.name.clone(),
            description: definition.description.clone(),
            version: definition.version.get(),
            run_after: definition.run_after.iter().map(ToString::to_string).collect(),
            impacts: definition.impacts.clone(),
            before: definition.before.iter().map(Into::into).collect(),
            steps: definition.steps.iter().map(Into::into).collect(),
            after: definition.after.iter().map(Into::into).collect(),
            rollback: definition.rollback.iter().map(Into::into).collect(),
            checksum: definition.checksum().to_string(),
            atomic: definition.is_atomic(),
            definition: String::new(),
            isolation: isolation_out(definition.isolation),
            ..Self::default()
        }
    }
}

impl TryFrom<&v1::Migration> for Definition {
    type Error = Error;

    /// The checksums of the message are not looked at: they follow from the rest.
    fn try_from(migration: &v1::Migration) -> Result<Self, Error> {
        Ok(Self {
            id: id("id", MigrationId::parse(migration.id.as_str()))?,
            name: migration.name.clone(),
            description: migration.description.clone(),
            version: Version::try_from(migration.version).map_err(|error| Error::new("version", error))?,
            run_after: migration
                .run_after
                .iter()
                .map(|before| id("run_after", MigrationId::parse(before.as_str())))
                .collect::<Result<_, _>>()?,
            impacts: migration.impacts.clone(),
            before: migration.before.iter().map(Into::into).collect(),
            steps: migration.steps.iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            after: migration.after.iter().map(Into::into).collect(),
            rollback: migration.rollback.iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            isolation: isolation("isolation", migration.isolation)?,
        })
    }
}

impl From<&Check> for v1::Check {
    fn from(check: &Check) -> Self {
        Self { name: check.name.clone(), sql: check.sql.clone(), row_security: check.row_security }
    }
}

impl From<&v1::Check> for Check {
    fn from(check: &v1::Check) -> Self {
        Self { name: check.name.clone(), sql: check.sql.clone(), row_security: check.row_security }
    }
}

fn isolation_out(isolation: Option<Isolation>) -> i32 {
    let isolation = match isolation {
        None => v1::Isolation::Unspecified,
        Some(Isolation::RepeatableRead) => v1::Isolation::RepeatableRead,
        Some(Isolation::Serializable) => v1::Isolation::Serializable,
    };
    isolation.into()
}

/// Reads an isolation level. One that this version does not know is an error: another level would be another meaning.
///
/// # Errors
/// It is not known.
pub fn isolation(field: &'static str, number: i32) -> Result<Option<Isolation>, Error> {
    match v1::Isolation::try_from(number) {
        Ok(v1::Isolation::Unspecified) => Ok(None),
        Ok(v1::Isolation::RepeatableRead) => Ok(Some(Isolation::RepeatableRead)),
        Ok(v1::Isolation::Serializable) => Ok(Some(Isolation::Serializable)),
        Err(_) => Err(Error::new(field, format!("{number} is not known"))),
    }
}

impl From<&Step> for v1::Step {
    fn from(step: &Step) -> Self {
        let mut message = Self {
            name: step.name.to_string(),
            was: step.was.as_ref().map(ToString::to_string).unwrap_or_default(),
            idempotent: step.idempotent,
            checksum: step.checksum().to_string(),
            ..Self::default()
        };
        message.isolation = isolation_out(step.isolation);
        message.row_security = step.row_security;
        message.own_transaction = step.own_transaction;
        message.unlogged = step.unlogged;
        message.foreign = step.foreign;
        message.batch_is_mine = step.batch_is_mine;
        message.changes_elsewhere = step.changes == Some(Changes::Elsewhere);
        match &step.body {
            StepBody::Sql { sql, transaction } => {
                message.set_kind(if *transaction { v1::StepKind::Sql } else { v1::StepKind::SqlNoTransaction });
                message.sql.clone_from(sql);
            }
            StepBody::Batch { batch, sql } => {
                message.set_kind(v1::StepKind::Batch);
                message.batch = Some(batch.into());
                message.sql.clone_from(sql);
            }
            StepBody::Transform { batch, transform } => {
                message.set_kind(v1::StepKind::Transform);
                message.batch = Some(batch.into());
                message.transform = transform.to_string();
            }
        }
        message
    }
}

impl TryFrom<&v1::Step> for Step {
    type Error = Error;

    fn try_from(step: &v1::Step) -> Result<Self, Error> {
        let batch = || step.batch.as_ref().ok_or(Error::missing("batch")).and_then(Batch::try_from);
        let body = match step.kind() {
            v1::StepKind::Unspecified => return Err(Error::new("kind", format!("{} is not known", step.kind))),
            v1::StepKind::Sql => StepBody::Sql { sql: step.sql.clone(), transaction: true },
            v1::StepKind::SqlNoTransaction => StepBody::Sql { sql: step.sql.clone(), transaction: false },
            v1::StepKind::Batch => StepBody::Batch { batch: batch()?, sql: step.sql.clone() },
            v1::StepKind::Transform => StepBody::Transform {
                batch: batch()?,
                transform: id("transform", TransformName::parse(step.transform.as_str()))?,
            },
        };
        let was = match step.was.as_str() {
            "" => None,
            was => Some(id("was", StepName::parse(was))?),
        };
        Ok(Self {
            name: id("name", StepName::parse(step.name.as_str()))?,
            was,
            idempotent: step.idempotent,
            body,
            isolation: isolation("step.isolation", step.isolation)?,
            row_security: step.row_security,
            own_transaction: step.own_transaction,
            unlogged: step.unlogged,
            foreign: step.foreign,
            batch_is_mine: step.batch_is_mine,
            changes: step.changes_elsewhere.then_some(Changes::Elsewhere),
        })
    }
}

impl From<&Step> for v1::StepOutline {
    fn from(step: &Step) -> Self {
        let v1::Step { name, was, kind, checksum, idempotent, .. } = step.into();
        Self { name, was, kind, checksum, idempotent }
    }
}

impl From<&v1::Step> for v1::StepOutline {
    fn from(step: &v1::Step) -> Self {
        Self {
            name: step.name.clone(),
            was: step.was.clone(),
            kind: step.kind,
            checksum: step.checksum.clone(),
            idempotent: step.idempotent,
        }
    }
}

impl From<&v1::StepOutline> for Wanted {
    fn from(step: &v1::StepOutline) -> Self {
        Self {
            name: step.name.clone(),
            was: Some(step.was.clone()).filter(|was| !was.is_empty()),
            checksum: step.checksum.clone(),
            walks: matches!(step.kind(), v1::StepKind::Batch | v1::StepKind::Transform),
            idempotent: step.idempotent,
        }
    }
}

impl From<Standing> for v1::HeldState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Prepared => Self::Prepared,
            Standing::Begun => Self::Begun,
            Standing::Done => Self::Done,
        }
    }
}

impl From<&Batch> for v1::Batch {
    fn from(batch: &Batch) -> Self {
        let number = |value: Option<u32>| value.map_or(0, |value| i32::try_from(value).unwrap_or(i32::MAX));
        Self {
            table: batch.table.clone(),
            key: batch.key.clone(),
            size: number(batch.size),
            range: number(batch.range),
            stripes: number(batch.stripes),
            plan: match batch.plan {
                None => v1::BatchPlan::Unspecified,
                Some(PlanRule::Strict) => v1::BatchPlan::Strict,
            }
            .into(),
        }
    }
}

impl TryFrom<&v1::Batch> for Batch {
    type Error = Error;

    fn try_from(batch: &v1::Batch) -> Result<Self, Error> {
        let number = |field, value: i32| match u32::try_from(value) {
            Ok(0) => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Error::new(field, format!("{value} is negative"))),
        };
        Ok(Self {
            table: batch.table.clone(),
            key: batch.key.clone(),
            size: number("batch.size", batch.size)?,
            range: number("batch.range", batch.range)?,
            stripes: number("batch.stripes", batch.stripes)?,
            plan: match v1::BatchPlan::try_from(batch.plan) {
                Ok(v1::BatchPlan::Unspecified) => None,
                Ok(v1::BatchPlan::Strict) => Some(PlanRule::Strict),
                Err(_) => return Err(Error::new("batch.plan", format!("{} is not known", batch.plan))),
            },
        })
    }
}

impl From<&KeyColumn> for v1::KeyColumn {
    fn from(column: &KeyColumn) -> Self {
        Self { name: column.name.clone(), r#type: column.type_name.to_string() }
    }
}

impl TryFrom<&v1::KeyColumn> for KeyColumn {
    type Error = dunlin_shared::ids::Error;

    fn try_from(column: &v1::KeyColumn) -> Result<Self, Self::Error> {
        Self::parse(&column.name, &column.r#type)
    }
}

impl From<&KeyBound> for v1::Key {
    fn from(bound: &KeyBound) -> Self {
        Self { values: bound.0.clone() }
    }
}

impl From<&v1::Key> for KeyBound {
    fn from(key: &v1::Key) -> Self {
        Self(key.values.clone())
    }
}

impl TryFrom<&v1::PlannedRange> for KeyRange {
    type Error = Error;

    fn try_from(range: &v1::PlannedRange) -> Result<Self, Error> {
        Ok(Self {
            low: range.low.as_ref().map(Into::into),
            high: range.high.as_ref().map(Into::into).ok_or(Error::missing("range.high"))?,
        })
    }
}

/// A time as a message. Times before 1970 and after 292 billion years become the nearest that can be told.
#[must_use]
pub fn timestamp(time: SystemTime) -> pbjson_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    pbjson_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

/// A time of a message. `None` for times before 1970 and those that this machine cannot tell.
#[must_use]
pub fn system_time(timestamp: &pbjson_types::Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// A duration as a message.
#[must_use]
pub fn duration(duration: Duration) -> pbjson_types::Duration {
    pbjson_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// A duration of a message. `None` for negative ones.
#[must_use]
pub fn std_duration(duration: &pbjson_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

/// A JSON object as a message. Integers beyond 2^53 lose digits, as everywhere in JSON.
///
/// # Errors
/// The value is not an object.
pub fn to_struct(value: &serde_json::Value) -> Result<pbjson_types::Struct, Error> {
    match value {
        serde_json::Value::Object(fields) => Ok(struct_of(fields)),
        _ => Err(Error::new("result", "it is not a JSON object")),
    }
}

/// The fields of a JSON object as a message.
#[must_use]
pub fn struct_of(fields: &serde_json::Map<String, serde_json::Value>) -> pbjson_types::Struct {
    pbjson_types::Struct { fields: fields.iter().map(|(name, value)| (name.clone(), to_value(value))).collect() }
}

fn to_value(value: &serde_json::Value) -> pbjson_types::Value {
    use pbjson_types::value::Kind;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(pbjson_types::ListValue { values: values.iter().map(to_value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(struct_of(fields)),
    };
    pbjson_types::Value { kind: Some(kind) }
}

/// A message as a JSON object. Whole numbers come out as integers.
#[must_use]
pub fn from_struct(message: &pbjson_types::Struct) -> serde_json::Value {
    let mut fields: Vec<_> = message.fields.iter().collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    serde_json::Value::Object(fields.into_iter().map(|(name, value)| (name.clone(), from_value(value))).collect())
}

fn from_value(value: &pbjson_types::Value) -> serde_json::Value {
    use pbjson_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::NumberValue(value)) => number(*value),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(from_value).collect(),
        Some(Kind::StructValue(fields)) => from_struct(fields),
    }
}

fn number(value: f64) -> serde_json::Value {
    // The shortest form of a whole number of up to 2^53 has no fraction and reads back as an integer.
    let whole = if value.abs() <= 9_007_199_254_740_992.0 { format!("{value}").parse::<i64>().ok() } else { None };
    whole.map_or_else(|| value.into(), Into::into)
}

#[cfg(test)]
mod tests {
    use dunlin_shared::migration::set::{Set, SourceFile};

    use super::*;

    #[test]
    fn a_definition_survives_the_way_through_a_message() {
        let content = r#"
            id = "a"
            name = "A"
            description = "All kinds of steps."
            version = 3
            impacts = ["users.role"]
            [[before]]
            name = "check"
            sql = "SELECT true"
            [[step]]
            name = "plain"
            was = "pain"
            idempotent = true
            sql = "CREATE TABLE t (id int PRIMARY KEY)"
            [[step]]
            name = "outside"
            sql = "CREATE INDEX CONCURRENTLY i ON t (id)"
            transaction = false
            [[step]]
            name = "batch"
            batch = { table = "t", key = ["id"], size = 10, stripes = 4, plan = "strict" }
            sql = "DELETE FROM t WHERE :batch"
            [[rollback]]
            name = "code"
            batch = { table = "t", range = 5000 }
            transform = "undo"
        "#;
        let set = Set::parse(&[SourceFile { path: "a.toml".to_owned(), content: content.to_owned() }], &[]).unwrap();
        let definition = &set.entries[0].definition;
        let message = v1::Migration::from(definition);
        assert!(!message.atomic);
        assert_eq!(message.steps[2].batch.as_ref().unwrap().range, 0);
        assert_eq!(&Definition::try_from(&message).unwrap(), definition);
    }

    #[test]
    fn what_breaks_the_contract_is_refused_by_field() {
        let step = v1::Step { name: "a".to_owned(), ..v1::Step::default() };
        assert_eq!(Step::try_from(&step).unwrap_err().field, "kind");
        let mut step = step;
        step.set_kind(v1::StepKind::Batch);
        assert_eq!(Step::try_from(&step).unwrap_err(), Error::missing("batch"));
        step.batch = Some(v1::Batch { size: -1, ..v1::Batch::default() });
        assert_eq!(Step::try_from(&step).unwrap_err().field, "batch.size");
        assert_eq!(KeyRange::try_from(&v1::PlannedRange::default()).unwrap_err(), Error::missing("range.high"));
    }

    #[test]
    fn times_and_durations_survive() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(system_time(&timestamp(time)), Some(time));
        assert_eq!(system_time(&pbjson_types::Timestamp { seconds: -1, nanos: 0 }), None);
        assert_eq!(std_duration(&duration(Duration::from_millis(1500))), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn json_objects_survive() {
        let value =
            serde_json::json!({"success": true, "rows": 12, "share": 0.5, "none": null, "list": [1, "a", {"b": -3}]});
        assert_eq!(from_struct(&to_struct(&value).unwrap()), value);
        assert!(to_struct(&serde_json::json!([])).is_err());
    }
}
