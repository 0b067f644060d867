//! What the server makes of a statement: asked before the first batch, and told where a batch costs much.
//!
//! A statement can be such that the server does not find the rows of a batch by the key: it then reads the whole table for each of them.
//! That ends well, but late, and the application feels it. The planner is asked with the first batch as it would be executed, in a
//! transaction that is rolled back. It is one answer at one moment: plans change with statistics, so it is asked again by every lease of a
//! step that insists on a good one, and by every agent otherwise.
//!
//! Where the plan is dear, the planner is asked about a larger batch, too: what the two have in common is the fixed cost of the statement.
//!
//! Only what PostgreSQL tells is judged: where it does not explain a statement, nothing is known of its plan, and a step that insists is
//! refused. A table so small that the key would not help is never held against a plan.

use dunlin_proto::v1::EventType;
use dunlin_shared::figures::counted;
use dunlin_shared::key::KeyColumn;
use dunlin_shared::sql::placeholder::BatchSql;
use futures::future::join3;
use serde_json::Value;
use tokio_postgres::types::Type;

use super::Worker;
use super::batch::{Body, settings};
use super::order::Job;
use super::pace::FIRST_FOR_FIXED;
use crate::failure::{Class, classify};
use crate::frame::Durability;
use crate::own;
use crate::steps::Error;
use crate::target::Connection;

/// Pages of a table that is read as fast as any index.
const FEW_PAGES: i64 = 64;

/// A batch that is so large a part of the table may read all of it.
const PART: i64 = 8;

/// Rows on a page of a table that was never analysed.
const ROWS_ON_PAGE: i64 = 20;

/// A plan that is dear, in the planner's units: one page read in sequence is 1.
const DEAR: f64 = 1000.0;

/// What changing a row costs, in these units: the planner leaves it out.
const CHANGE: f64 = 1.0;

/// A table, or a partition, that a plan reads from its first to its last page.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WholeScan {
    schema: String,
    name: String,
}

impl Worker<'_> {
    /// Asks the planner about the first batch, unless that was done.
    ///
    /// # Errors
    /// The step insists on a plan by the key, and there is none.
    pub(super) async fn ask(&mut self, connection: &mut Connection, job: &Job<'_>) -> Result<(), Error> {
        let Body::Sql(sql) = &self.body else { return Ok(()) };
        if std::mem::replace(&mut self.asked, true) {
            return Ok(());
        }
        let known = self.learnt(|learnt| std::mem::replace(&mut learnt.asked, true));
        if known && !self.strict {
            return Ok(());
        }
        let insist = |what: String| {
            let next = format!(
                "Run ANALYZE {table}, or write the statement so that the rows of its batch are found by the key; then \
                 `dunlin run {migration}`. Without `plan = \"strict\"` in `batch` the step runs as it is.",
                table = self.table.quoted(),
                migration = self.place.migration,
            );
            Err(Error::Final(self.place.refuse(what, next)))
        };
        let plan = match self.explain_batch(connection, sql, job).await? {
            Ok(plan) => plan,
            Err(error) if self.strict => {
                let why = self.place.words(&error);
                return insist(format!(
                    "the server does not tell how it would execute the statement of a batch: {why}"
                ));
            }
            Err(_) => return Ok(()),
        };
        self.expect(connection, sql, job, cost(&plan)).await?;
        let Some((scan, pages)) = self.whole_scan(connection, &plan).await? else { return Ok(()) };
        let columns: Vec<&str> = self.key.iter().map(|column| column.name.as_str()).collect();
        let told = format!(
            "the server does not find the rows of a batch by the key ({key}): it reads all {pages} of {schema}.{name} for each \
             batch. Its plan: {plan}",
            key = columns.join(", "),
            pages = counted(pages, "page", "pages"),
            schema = scan.schema,
            name = scan.name,
            plan = outline(&plan),
        );
        if self.strict {
            return insist(told);
        }
        let table = self.table.quoted();
        self.context.lease.note(
            EventType::AgentNote,
            format!("{told}. ANALYZE {table} may help, or another form of the statement; `plan = \"strict\"` in `batch` refuses such plans"),
        );
        Ok(())
    }

    /// Takes in how much of a batch's cost is the same for a larger one.
    async fn expect(
        &self,
        connection: &mut Connection,
        sql: &BatchSql,
        job: &Job<'_>,
        small: f64,
    ) -> Result<(), Error> {
        if self.fixed_rows.is_some() || small < DEAR || job.cursor.window.stripes.count() > 1 {
            return Ok(());
        }
        let (low, high) = (job.cursor.at.as_ref(), Some(&self.range.high));
        let bound = self.walk().nth(connection, low, high, FIRST_FOR_FIXED).await;
        let (bound, rows) = match bound.map_err(|error| Error::of_postgres(&error, self.place))? {
            Some(bound) => (bound, FIRST_FOR_FIXED),
            None => (self.range.high.clone(), u32::try_from(self.rows_left()).unwrap_or(0).min(FIRST_FOR_FIXED)),
        };
        let larger = Job { bound: &bound, ..job.clone() };
        let Ok(plan) = self.explain_batch(connection, sql, &larger).await? else { return Ok(()) };
        let rows = expected(small, u32::try_from(job.walked).unwrap_or(0), cost(&plan), rows);
        self.learnt(|learnt| learnt.pace.expect(rows));
        Ok(())
    }

    /// The plan of a batch, or PostgreSQL's error where it has none.
    pub(super) async fn explain_batch(
        &self,
        connection: &mut Connection,
        sql: &BatchSql,
        job: &Job<'_>,
    ) -> Result<Result<Value, tokio_postgres::Error>, Error> {
        let of_postgres = |error| Error::of_postgres(&error, self.place);
        let begin = format!("{};{}", self.frame.begin_entered(Durability::Later), settings(job));
        // One statement, and no more: this protocol does not take others, which would be executed.
        let explain = format!("EXPLAIN (VERBOSE, FORMAT JSON) {}", self.render(sql, job));
        connection.opening();
        let (begun, plan, ended) = join3(
            connection.simple_query(&begin),
            connection.query_typed(&explain, &[]),
            connection.simple_query("ROLLBACK"),
        )
        .await;
        begun.map_err(of_postgres)?;
        ended.map_err(of_postgres)?;
        connection.closed();
        match plan {
            Ok(rows) => {
                let plan: Option<Value> = rows.first().map(|row| row.try_get(0)).transpose().map_err(of_postgres)?;
                Ok(Ok(plan.map_or(Value::Null, |plan| plan[0]["Plan"].clone())))
            }
            Err(error) if classify(&error) == Class::Final => Ok(Err(error)),
            Err(error) => Err(of_postgres(error)),
        }
    }

    /// The largest part of the walked table that a plan reads whole to find the rows of a batch, and its pages.
    async fn whole_scan(&self, connection: &Connection, plan: &Value) -> Result<Option<(WholeScan, i64)>, Error> {
        let scans = whole_scans(plan, &self.key);
        if scans.is_empty() {
            return Ok(None);
        }
        let of_postgres = |error| Error::of_postgres(&error, self.place);
        let relations = own::query(
            connection,
            "SELECT n.nspname, c.relname,
                        pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8,
                        CASE WHEN c.reltuples >= 0 THEN c.reltuples::pg_catalog.int8 END
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = $1
                    OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.regclass) p)",
            &[(&self.table.oid, Type::OID)],
        )
        .await
        .map_err(of_postgres)?;
        let mut largest: Option<(WholeScan, i64)> = None;
        for row in &relations {
            let scan =
                WholeScan { schema: row.try_get(0).map_err(of_postgres)?, name: row.try_get(1).map_err(of_postgres)? };
            let pages: i64 = row.try_get(2).map_err(of_postgres)?;
            let rows: Option<i64> = row.try_get(3).map_err(of_postgres)?;
            let larger = largest.as_ref().is_none_or(|(_, most)| pages > *most);
            if larger && scans.contains(&scan) && is_wasteful(pages, rows, i64::from(self.batch_rows)) {
                largest = Some((scan, pages));
            }
        }
        Ok(largest)
    }
}

/// The rows that cost as much as the fixed cost, by the costs of two batches.
fn expected(small: f64, small_rows: u32, large: f64, large_rows: u32) -> u32 {
    let Some(more) = large_rows.checked_sub(small_rows).filter(|more| *more >= small_rows) else { return 0 };
    let each = ((large - small) / f64::from(more)).max(0.0);
    let rows = (small - each * f64::from(small_rows)).max(0.0) / (each + CHANGE);
    // Formatting rounds, and what does not fit is no figure.
    format!("{rows:.0}").parse().unwrap_or(0)
}

/// True when reading all of a table is much more than a batch of so many rows needs.
fn is_wasteful(pages: i64, rows: Option<i64>, batch_rows: i64) -> bool {
    let rows = rows.unwrap_or(pages.saturating_mul(ROWS_ON_PAGE));
    pages > FEW_PAGES && (pages > batch_rows || rows > batch_rows.saturating_mul(PART))
}

/// What a plan reads whole to find the rows of a batch: the scans that have the conditions on the key in their filter, for all scans
/// have them somewhere. Where the table is read whole for something else, those are missing.
fn whole_scans(plan: &Value, key: &[KeyColumn]) -> Vec<WholeScan> {
    let mut found = Vec::new();
    let mut left = vec![plan];
    while let Some(node) = left.pop() {
        left.extend(children(node));
        let text = |name: &str| node[name].as_str().unwrap_or_default();
        let reads_all = match text("Node Type") {
            "Seq Scan" => true,
            "Index Scan" | "Index Only Scan" => node["Index Cond"].is_null(),
            _ => false,
        };
        let filter = text("Filter");
        if reads_all && key.iter().any(|column| mentions(filter, &column.name)) {
            found.push(WholeScan { schema: text("Schema").to_owned(), name: text("Relation Name").to_owned() });
        }
    }
    found
}

/// True when a condition, as PostgreSQL writes it, has a column.
fn mentions(condition: &str, column: &str) -> bool {
    let quoted = dunlin_shared::sql::quote_ident(column);
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    condition.contains(&quoted)
        || condition.match_indices(column).any(|(at, _)| {
            let before = condition[..at].chars().next_back();
            let behind = condition[at + column.len()..].chars().next();
            !before.is_some_and(part_of_name) && !behind.is_some_and(part_of_name)
        })
}

fn children(node: &Value) -> impl Iterator<Item = &Value> {
    node["Plans"].as_array().into_iter().flatten()
}

fn cost(node: &Value) -> f64 {
    node["Total Cost"].as_f64().unwrap_or(0.0)
}

/// The way through a plan to what costs most, in words: `Update on a > Hash Join > HashAggregate > Seq Scan on b (cost 93 of 120)`.
pub(super) fn outline(plan: &Value) -> String {
    let mut steps = Vec::new();
    let mut node = plan;
    loop {
        let kind = node["Operation"].as_str().or_else(|| node["Node Type"].as_str()).unwrap_or("?");
        steps.push(match node["Relation Name"].as_str() {
            Some(name) => format!("{kind} on {name}"),
            None => kind.to_owned(),
        });
        match children(node).max_by(|one, other| cost(one).total_cmp(&cost(other))) {
            Some(next) => node = next,
            None => break,
        }
    }
    format!("{} (cost {:.0} of {:.0})", steps.join(" > "), cost(node), cost(plan))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> Vec<KeyColumn> {
        vec![KeyColumn::parse("id", "bigint").unwrap()]
    }

    #[test]
    fn a_scan_that_filters_by_the_key_reads_all_and_others_do_not() {
        let scan = |kind: &str, filter: Option<&str>, condition: Option<&str>| {
            let plan = json!({"Node Type": "Hash Join", "Plans": [{"Node Type": kind, "Relation Name": "t", "Schema": "s",
                "Filter": filter, "Index Cond": condition}]});
            whole_scans(&plan, &key()).len()
        };
        assert_eq!(scan("Seq Scan", Some("((t.id > 1) AND (t.id <= 9))"), None), 1);
        assert_eq!(scan("Index Scan", Some("((t.id > 1) AND (t.id <= 9))"), None), 1);
        assert_eq!(scan("Seq Scan", None, None), 0, "for something else");
        assert_eq!(scan("Seq Scan", Some("(t.paid AND (t.id2 > 1))"), None), 0, "other columns");
        assert_eq!(scan("Index Scan", Some("(t.role = 'x')"), Some("((t.id > 1) AND (t.id <= 9))")), 0);
        assert_eq!(scan("Index Scan", Some("((t.id > 1) AND (t.id <= 9))"), Some("(t.role = 'x')")), 0);
    }

    #[test]
    fn what_two_batches_have_in_common_is_the_fixed_cost() {
        assert_eq!(expected(40_000.0, 500, 41_500.0, 8000), 33_250);
        assert_eq!(expected(4000.0, 500, 64_000.0, 8000), 0, "a join by an index costs for each row");
        assert_eq!(expected(4000.0, 500, 3000.0, 8000), 4000, "another plan is cheaper");
        assert_eq!(expected(4000.0, 5000, 4000.0, 8000), 0, "too much alike");
    }

    #[test]
    fn small_tables_and_large_batches_may_be_read_whole() {
        assert!(!is_wasteful(60, Some(6000), 10));
        assert!(is_wasteful(1000, Some(30_000), 500));
        assert!(is_wasteful(1000, None, 500));
        assert!(is_wasteful(1000, Some(10), 500), "a bloated table");
        assert!(!is_wasteful(1000, Some(30_000), 10_000));
    }

    #[test]
    fn an_outline_follows_what_costs_most() {
        let plan = json!({"Node Type": "ModifyTable", "Operation": "Update", "Relation Name": "a", "Total Cost": 120.4, "Plans": [
            {"Node Type": "Hash Join", "Total Cost": 120.4, "Plans": [
                {"Node Type": "Index Scan", "Relation Name": "a", "Total Cost": 20.0},
                {"Node Type": "HashAggregate", "Total Cost": 95.0, "Plans": [
                    {"Node Type": "Seq Scan", "Relation Name": "b", "Total Cost": 93.0}]}]}]});
        assert_eq!(outline(&plan), "Update on a > Hash Join > HashAggregate > Seq Scan on b (cost 93 of 120)");
        assert_eq!(outline(&Value::Null), "? (cost 0 of 0)");
    }
}
