-- The database of a learning platform before its first migration: 2,000 courses and 500,000 users of about 200 bytes.
--
--   psql "$DATABASE_URL" --set ON_ERROR_STOP=1 --file examples/learning-platform/sample-data.sql
--
-- The same every time. Roles: 1 in 1,000 is an admin, 1 in 10 a teacher, the others are students.

BEGIN;

CREATE TABLE courses (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title       text NOT NULL,
    description text NOT NULL,
    created_at  timestamptz NOT NULL
);

CREATE TABLE users (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_name   text NOT NULL,
    last_name    text NOT NULL,
    email        text NOT NULL,
    role         text NOT NULL,
    about        text NOT NULL,
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL
);

INSERT INTO courses (title, description, created_at)
SELECT
    (ARRAY['Introduction to', 'Practical', 'Advanced', 'A short course in'])[1 + n % 4]
        || ' ' || (ARRAY['algebra', 'biology', 'chemistry', 'drawing', 'economics', 'French', 'geometry'])[1 + n % 7],
    repeat('What this course is about. ', 4),
    timestamptz '2020-01-01 00:00:00+00' + n * interval '5 hours'
FROM generate_series(1, 2000) AS n;

INSERT INTO users (first_name, last_name, email, role, about, created_at, last_seen_at)
SELECT
    (ARRAY['Ada', 'Blaise', 'Carl', 'Dorothy', 'Emmy', 'Fibonacci', 'Grace', 'Hypatia', 'Isaac'])[1 + n % 9],
    (ARRAY['Lovelace', 'Pascal', 'Gauss', 'Hodgkin', 'Noether', 'Bonacci', 'Hopper', 'Theon'])[1 + n % 8],
    'user' || n || '@example.org',
    CASE WHEN n % 1000 = 0 THEN 'admin' WHEN n % 10 = 3 THEN 'teacher' ELSE 'student' END,
    repeat(md5(n::text), 3),
    timestamptz '2020-01-01 00:00:00+00' + n * interval '5 minutes',
    timestamptz '2026-01-01 00:00:00+00' - (n % 400) * interval '3 hours'
FROM generate_series(1, 500000) AS n;

COMMIT;

VACUUM ANALYZE courses, users;
