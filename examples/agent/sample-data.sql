-- 20,000 books by 1,000 authors, each name typed in one of three ways.
CREATE TABLE books (
    id          bigint PRIMARY KEY,
    title       text NOT NULL,
    author_name text NOT NULL
);

INSERT INTO books (id, title, author_name)
SELECT i, 'Book ' || i,
       CASE i % 3
           WHEN 0 THEN 'A. B. Writer' || (i % 1000)
           WHEN 1 THEN 'Writer' || (i % 1000) || ', A. B.'
           ELSE 'A.B.  Writer' || (i % 1000)
       END
FROM generate_series(1, 20000) AS i;
