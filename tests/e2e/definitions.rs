//! Definitions that several tests use, and the tables that they change.

use dunlin_tests::database::Database;

/// Makes the tables of a learning platform: a few courses, and `users` users of whom every third is a teacher.
pub(crate) async fn create_platform(database: &Database, users: u32) {
    database
        .execute(&format!(
            "CREATE TABLE courses (id bigint PRIMARY KEY, title text NOT NULL);
             INSERT INTO courses VALUES (1, 'Tides'), (2, 'Waders');
             CREATE TABLE users (id bigint PRIMARY KEY, role text NOT NULL);
             INSERT INTO users
                 SELECT i, CASE i % 3 WHEN 0 THEN 'teacher' ELSE 'student' END FROM generate_series(1, {users}) AS i;
             ANALYZE users"
        ))
        .await;
}

/// Version 4: a new field.
pub(crate) const ADD_LEVEL: (&str, &str) = (
    "add-course-level-field.toml",
    r#"
id          = "add-course-level-field"
name        = "Courses have a level"
description = "Beginner unless said otherwise."
version     = 4
impacts     = ["courses.level"]

[[step]]
name = "add the column"
sql  = "ALTER TABLE courses ADD COLUMN level text NOT NULL DEFAULT 'beginner'"

[[after]]
name = "every course has a level"
sql  = "SELECT NOT EXISTS (SELECT FROM courses WHERE level IS NULL)"
"#,
);

/// Version 5, after version 4: a data transform.
pub(crate) const RENAME_ROLE: (&str, &str) = (
    "update-user-roles.toml",
    r#"
id          = "update-user-roles"
name        = "Rename the teacher role"
description = "Teachers are called instructors from now on."
version     = 5
run_after   = ["add-course-level-field"]
impacts     = ["users.role"]

[[before]]
name = "only known roles"
sql  = "SELECT NOT EXISTS (SELECT FROM users WHERE role NOT IN ('student', 'teacher', 'admin'))"

[[step]]
name  = "rename"
batch = { table = "users", size = 100, range = 1000 }
sql   = "UPDATE users SET role = 'instructor' WHERE role = 'teacher' AND :batch"

[[after]]
name = "no teacher is left"
sql  = "SELECT NOT EXISTS (SELECT FROM users WHERE role = 'teacher')"

[[rollback]]
name  = "rename back"
batch = { table = "users" }
sql   = "UPDATE users SET role = 'teacher' WHERE role = 'instructor' AND :batch"
"#,
);

/// A migration of one SQL statement, without quotes in it, without dependencies.
pub(crate) fn trivial(id: &str, version: i64, sql: &str) -> String {
    trivial_after(id, version, &[], sql)
}

/// A migration of one SQL statement, without quotes in it, that runs after others.
pub(crate) fn trivial_after(id: &str, version: i64, run_after: &[&str], sql: &str) -> String {
    format!("{}run_after = {run_after:?}\n\n[[step]]\nname = \"only\"\nsql = \"{sql}\"\n", head(id, version))
}

/// A migration of one batched step, called `only`.
pub(crate) fn batched(id: &str, version: i64, batch: &str, sql: &str) -> String {
    format!("{}\n[[step]]\nname = \"only\"\nbatch = {{ {batch} }}\nsql = \"{sql}\"\n", head(id, version))
}

/// The fields that every definition has.
pub(crate) fn head(id: &str, version: i64) -> String {
    format!("id = \"{id}\"\nversion = {version}\nname = \"A test\"\ndescription = \"For a test.\"\n")
}
