//! The table of the exactly-once tests, and a transform of it that must not be done twice, nor left out.

use crate::database::Database;

/// The step that transforms the table: `n` becomes `3 n + 1`, which no repetition undoes or hides.
pub const TRANSFORM: &str = "UPDATE numbers SET n = n * 3 + 1 WHERE :batch";

/// Makes the table with the keys from 1 to `rows`.
pub async fn create(database: &Database, rows: u32) {
    database
        .execute(&format!(
            "CREATE TABLE numbers (id bigint PRIMARY KEY, n bigint NOT NULL, was bigint NOT NULL);
             INSERT INTO numbers SELECT i, i % 1000, i % 1000 FROM generate_series(1, {rows}) AS i;
             ANALYZE numbers"
        ))
        .await;
}

/// The definition of a migration with the transform as its only step.
#[must_use]
pub fn migration(id: &str, version: u32, batch: &str) -> String {
    format!(
        "id = \"{id}\"\nversion = {version}\nname = \"A test\"\ndescription = \"For a test.\"\n\n\
         [[step]]\nname = \"triple\"\nbatch = {{ table = \"numbers\", {batch} }}\nsql = \"{TRANSFORM}\"\n"
    )
}

/// How many rows were transformed exactly once, not at all, and otherwise.
pub async fn count(database: &Database) -> (i64, i64, i64) {
    let rows = database
        .rows(
            "SELECT count(*) FILTER (WHERE n = was * 3 + 1),
                    count(*) FILTER (WHERE n = was),
                    count(*) FILTER (WHERE n NOT IN (was, was * 3 + 1))
             FROM numbers",
            &[],
        )
        .await;
    (rows[0].get(0), rows[0].get(1), rows[0].get(2))
}

/// Checks that each of `rows` rows was transformed exactly once.
///
/// # Panics
/// When one was not.
pub async fn assert_transformed_once(database: &Database, rows: u32) {
    assert_eq!(count(database).await, (i64::from(rows), 0, 0), "rows transformed once, not at all, otherwise");
}
