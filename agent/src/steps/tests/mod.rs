//! The steps against a real PostgreSQL.

mod advice;
mod batches;
mod built;
mod costs;
mod exactly_once;
mod framed;
mod isolation;
mod key_plans;
mod keys;
mod located;
mod locked;
mod mending;
mod newer;
mod no_transaction;
mod notices;
mod plan;
mod planner;
mod pooler;
mod progress;
mod redacted;
mod row_security;
mod rows;
mod statement;
mod subject;
mod transforms;
mod written;
