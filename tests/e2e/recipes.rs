//! The recipes of `docs/recipes.md` are right under a load of writes: each block of the page is executed as it stands there.
//!
//! The page has the tables and the definitions. Here is, for each recipe, what the page does not say: the rows that are there before, the
//! application that writes meanwhile and knows nothing of the change, and what must be so in the end. A recipe without an entry
//! here, or an entry without a recipe, fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::programs::repository;
use dunlin_tests::until::until;
use tokio::task::JoinHandle;

/// A section of the page.
#[derive(Debug, Default, PartialEq)]
struct Recipe {
    title: String,
    /// The blocks of SQL: the tables that it starts from.
    tables: String,
    /// The blocks of TOML: a definition each.
    definitions: Vec<String>,
}

impl Recipe {
    fn all(page: &str) -> Vec<Self> {
        let mut recipes: Vec<Self> = Vec::new();
        let (mut block, mut text) = (None, String::new());
        for line in page.lines() {
            match (line.strip_prefix("```"), block) {
                (Some(language), None) => (block, text) = (Some(language), String::new()),
                (Some(_), Some(language)) => {
                    let recipe = recipes.last_mut().expect("a block stands in a recipe");
                    match language {
                        "sql" => recipe.tables += &text,
                        "toml" => recipe.definitions.push(std::mem::take(&mut text)),
                        other => panic!("a block of {other:?} is not executed by anybody"),
                    }
                    block = None;
                }
                (None, Some(_)) => text = text + line + "\n",
                (None, None) => {
                    if let Some(title) = line.strip_prefix("## ") {
                        recipes.push(Self { title: title.to_owned(), ..Self::default() });
                    }
                }
            }
        }
        assert_eq!(block, None, "the last block ends");
        recipes
    }
}

/// The id that a definition gives itself.
fn id(definition: &str) -> &str {
    let line = definition.lines().find(|line| line.starts_with("id ")).expect("a definition has an id");
    line.split('"').nth(1).expect("an id stands in quotes")
}

/// What the page does not say of a recipe.
struct Load {
    title: &'static str,
    /// How many of the definitions are applied before the application writes.
    before: usize,
    /// The rows that are there before.
    rows: &'static str,
    /// What the application does, again and again: statements that return a row for each row that they change. `{n}` is a number that
    /// rises. Rows 1001 to 1500 are left alone, so that some are changed by the migration only.
    writes: [&'static str; 3],
    /// What must be true in the end. `{0}` to `{2}` are how many rows the statements have changed.
    facts: &'static [&'static str],
}

const LOADS: &[Load] = &[
    Load {
        title: "Add a column",
        before: 0,
        rows: "INSERT INTO lines (price, quantity) SELECT n, n % 7 FROM generate_series(1, 4000) n",
        writes: [
            "INSERT INTO lines (price, quantity) VALUES ({n}, 3) RETURNING id",
            "UPDATE lines SET price = price + 1, quantity = quantity + 1 WHERE id = 1 + {n} % 1000 RETURNING id",
            "DELETE FROM lines WHERE id = 1501 + {n} % 1500 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} - {2} FROM lines",
            "SELECT bool_and(total IS NOT NULL AND total = price::bigint * quantity) FROM lines",
            "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'lines'::regclass AND attname = 'total'",
            "SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'lines_total_present')",
        ],
    },
    Load {
        title: "Rename a value",
        before: 0,
        rows: "INSERT INTO members (role, note) SELECT role, role
               FROM (SELECT CASE n % 3 WHEN 0 THEN 'teacher' ELSE 'student' END AS role FROM generate_series(1, 4000) n) AS given",
        writes: [
            "INSERT INTO members (role, note) VALUES ('teacher', 'teacher'), ('student', 'student') RETURNING id",
            "UPDATE members SET role = 'teacher', note = 'teacher' WHERE id = 1 + {n} % 1000 RETURNING id",
            "DELETE FROM members WHERE id = 1501 + {n} % 1500 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} - {2} FROM members",
            "SELECT bool_and(role = CASE note WHEN 'teacher' THEN 'instructor' ELSE 'student' END) FROM members",
        ],
    },
    Load {
        title: "Change a column's type",
        before: 0,
        rows: "INSERT INTO posts (views, note) SELECT n, n FROM generate_series(1, 4000) n",
        writes: [
            "INSERT INTO posts (views, note) VALUES ({n}, {n}) RETURNING id",
            "UPDATE posts SET views = views + 1, note = (views + 1)::text WHERE id = 1 + {n} % 1000 RETURNING id",
            "DELETE FROM posts WHERE id = 1501 + {n} % 1500 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} - {2} FROM posts",
            "SELECT bool_and(views::text = note) FROM posts",
            "SELECT array_agg(attname::text || ' ' || atttypid::regtype || ' ' || attnotnull ORDER BY attname)
                    = '{id bigint true,note text true,views bigint true}'
             FROM pg_attribute WHERE attrelid = 'posts'::regclass AND attnum > 0 AND NOT attisdropped",
            "SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'posts'::regclass)",
        ],
    },
    Load {
        title: "Split a column",
        before: 0,
        rows: "INSERT INTO people (full_name) SELECT CASE n % 3 WHEN 0 THEN 'Plato' WHEN 1 THEN 'Ada Lovelace' ELSE 'Ann Lee Poe' END
               FROM generate_series(1, 4000) n",
        writes: [
            "INSERT INTO people (full_name) VALUES ('New {n}') RETURNING id",
            "UPDATE people SET full_name = 'Other Name {n}' WHERE id = 1 + {n} % 1000 RETURNING id",
            "DELETE FROM people WHERE id = 1501 + {n} % 1500 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} - {2} FROM people",
            "SELECT bool_and(first_name IS NOT NULL AND last_name IS NOT NULL) FROM people",
            "SELECT bool_and(rtrim(first_name || ' ' || last_name) = full_name AND strpos(first_name, ' ') = 0) FROM people",
        ],
    },
    Load {
        title: "Build an index",
        before: 0,
        rows: "INSERT INTO visits (seen_at) SELECT to_timestamp(n) FROM generate_series(1, 4000) n",
        writes: [
            "INSERT INTO visits (seen_at) VALUES (to_timestamp({n})) RETURNING id",
            "UPDATE visits SET seen_at = seen_at + interval '1 day' WHERE id = 1 + {n} % 1000 RETURNING id",
            "DELETE FROM visits WHERE id = 1501 + {n} % 1500 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} - {2} FROM visits",
            "SELECT indisvalid AND indisready FROM pg_index WHERE indexrelid = 'visits_seen_at_idx'::regclass",
        ],
    },
    Load {
        title: "Add a foreign key",
        before: 0,
        // Every fifth order is an orphan. Customers 4001 and up have no orders, and are deleted.
        rows: "INSERT INTO customers SELECT FROM generate_series(1, 6000);
               INSERT INTO orders (customer_id, note)
                   SELECT CASE n % 5 WHEN 0 THEN -n ELSE n END, CASE n % 5 WHEN 0 THEN 'orphan' ELSE n::text END
                   FROM generate_series(1, 4000) n",
        writes: [
            "WITH c AS (INSERT INTO customers DEFAULT VALUES RETURNING id)
             INSERT INTO orders (customer_id, note) SELECT id, id FROM c RETURNING id",
            "UPDATE orders SET customer_id = 1 + {n} % 4000, note = 1 + {n} % 4000 WHERE id = 1 + {n} % 1000 RETURNING id",
            "DELETE FROM customers WHERE id = 4001 + {n} % 2000 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} FROM orders",
            "SELECT count(*) = 6000 + {0} - {2} FROM customers",
            "SELECT bool_and(CASE note WHEN 'orphan' THEN customer_id IS NULL ELSE customer_id IS NOT NULL AND customer_id::text = note END)
             FROM orders",
            "SELECT NOT EXISTS (SELECT FROM orders o WHERE customer_id IS NOT NULL
                                AND NOT EXISTS (SELECT FROM customers c WHERE c.id = o.customer_id))",
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_customer_id_idx'::regclass",
            "SELECT convalidated FROM pg_constraint WHERE conname = 'orders_customer_id_fkey'",
        ],
    },
    Load {
        title: "Delete old rows",
        before: 0,
        // Every second event is old. Old ones that become young must stay.
        rows: "INSERT INTO events (happened_at, note)
                   SELECT CASE n % 2 WHEN 0 THEN '2019-12-31T23:59:59Z'::timestamptz ELSE '2020-01-01T00:00:00Z' END, n
                   FROM generate_series(1, 4000) n",
        writes: [
            "INSERT INTO events (happened_at, note) VALUES ('2024-01-01', 'new') RETURNING id",
            "UPDATE events SET happened_at = '2024-01-01', note = 'young'
             WHERE id = 3000 - 2 * ({n} % 500) AND note <> 'young' RETURNING id",
            "DELETE FROM events WHERE id = 1 + 2 * ({n} % 400) RETURNING id",
        ],
        facts: &[
            "SELECT NOT EXISTS (SELECT FROM events WHERE happened_at < '2020-01-01T00:00:00Z')",
            "SELECT count(*) = {0} FROM events WHERE note = 'new'",
            "SELECT count(*) = {1} FROM events WHERE note = 'young'",
            "SELECT count(*) = 2000 - {2} FROM events WHERE note NOT IN ('new', 'young')",
        ],
    },
    Load {
        title: "Add a constraint",
        before: 0,
        // Every fifth price is wrong.
        rows: "INSERT INTO products (price, note) SELECT CASE n % 5 WHEN 0 THEN -1 ELSE n END, CASE n % 5 WHEN 0 THEN 'wrong' ELSE 'right' END
               FROM generate_series(1, 4000) n",
        writes: [
            "INSERT INTO products (price, note) VALUES ({n}, 'right') RETURNING id",
            "UPDATE products SET price = price + 1 WHERE id = 1 + {n} % 1000 AND note = 'right' RETURNING id",
            "DELETE FROM products WHERE id = 1501 + {n} % 1500 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} - {2} FROM products",
            "SELECT bool_and(CASE note WHEN 'wrong' THEN price = 0 ELSE price > 0 END) FROM products",
            "SELECT convalidated FROM pg_constraint WHERE conname = 'products_price_known'",
        ],
    },
    Load {
        title: "Arithmetic in place",
        // The application that writes meanwhile is the one that knows the marker.
        before: 1,
        rows: "INSERT INTO accounts (amount, note) SELECT n, n FROM generate_series(1, 4000) n",
        writes: [
            "INSERT INTO accounts (amount, in_cents, note) VALUES (100 * {n}, true, {n}) RETURNING id",
            "UPDATE accounts SET amount = amount + CASE WHEN in_cents THEN 500 ELSE 5 END, note = (note::bigint + 5)::text
             WHERE id = 1 + {n} % 1000 RETURNING id",
            "DELETE FROM accounts WHERE id = 1501 + {n} % 1500 RETURNING id",
        ],
        facts: &[
            "SELECT count(*) = 4000 + {0} - {2} FROM accounts",
            "SELECT bool_and(in_cents AND amount = 100 * note::bigint) FROM accounts",
            "SELECT convalidated FROM pg_constraint WHERE conname = 'accounts_in_cents'",
        ],
    },
];

/// Writes as an application does, until it is told to stop. Returns how many rows each statement has changed.
async fn write(database: Database, writes: [&str; 3], stop: Arc<AtomicBool>, rounds: Arc<AtomicU64>) -> [usize; 3] {
    let mut changed = [0; 3];
    while !stop.load(Ordering::SeqCst) {
        let n = (rounds.load(Ordering::SeqCst) + 1).to_string();
        for (sql, count) in writes.iter().zip(&mut changed) {
            *count += database.rows(&sql.replace("{n}", &n), &[]).await.len();
        }
        let _before = rounds.fetch_add(1, Ordering::SeqCst);
    }
    changed
}

/// Waits until the application has written once more, from beginning to end, or has failed.
async fn another_round(rounds: &AtomicU64, writer: &JoinHandle<[usize; 3]>) {
    let seen = rounds.load(Ordering::SeqCst);
    let written = async || (writer.is_finished() || rounds.load(Ordering::SeqCst) > seen + 1).then_some(());
    until("the application writes", written).await;
}

#[tokio::test]
async fn the_recipes_are_right_under_a_load_of_writes() {
    let page = std::fs::read_to_string(repository().join("docs/recipes.md")).unwrap();
    let recipes = Recipe::all(&page);
    let titles: Vec<&str> = recipes.iter().map(|recipe| recipe.title.as_str()).collect();
    assert_eq!(titles, LOADS.iter().map(|load| load.title).collect::<Vec<_>>(), "each recipe has its load");

    let fleet = Fleet::builder().agents(2).start().await;
    for definition in recipes.iter().flat_map(|recipe| &recipe.definitions) {
        fleet.write(&format!("{}.toml", id(definition)), definition);
    }
    let checked = fleet.dunlin(&["check", "migrations"]).await.ended(0);
    assert!(!format!("{}{}", checked.stdout, checked.stderr).contains("warning"), "{checked:?}");
    let _registered = fleet.dunlin(&["register", "migrations"]).await.ended(0);

    for (recipe, load) in recipes.iter().zip(LOADS) {
        fleet.main().execute(&recipe.tables).await;
        fleet.main().execute(load.rows).await;
        let (first, rest) = recipe.definitions.split_at(load.before);
        assert!(!rest.is_empty(), "{} has a definition that is applied under load", recipe.title);
        for definition in first {
            let _run = fleet.dunlin(&["run", id(definition)]).await.ended(0);
        }
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = write(fleet.main().again().await, load.writes, Arc::clone(&stop), Arc::clone(&rounds));
        let writer = tokio::spawn(writer);
        another_round(&rounds, &writer).await;
        for definition in rest {
            let _run = fleet.dunlin(&["run", id(definition)]).await.ended(0);
        }
        // What the application writes afterwards is right, too.
        another_round(&rounds, &writer).await;
        stop.store(true, Ordering::SeqCst);
        let changed = writer.await.unwrap();
        assert!(changed.iter().all(|rows| *rows > 0), "{}: each statement changes rows: {changed:?}", recipe.title);
        for fact in load.facts {
            let counted = changed.iter().enumerate();
            let sql = counted
                .fold((*fact).to_owned(), |sql, (place, rows)| sql.replace(&format!("{{{place}}}"), &rows.to_string()));
            let holds: Option<bool> = fleet.main().value(&sql).await;
            assert_eq!(holds, Some(true), "{}: {sql}", recipe.title);
        }
    }
}
