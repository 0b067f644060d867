//! The steps against a real PostgreSQL.

mod advice;
mod batches;
mod costs;
mod exactly_once;
mod framed;
mod key_plans;
mod keys;
mod newer;
mod no_transaction;
mod plan;
mod planner;
mod pooler;
mod statement;
mod subject;
mod transforms;
