//! The migrations of a round, and its tables: one of every kind, in an order of dependencies.
//!
//! Each table has `was` and `n`: every transform turns `n` into `3 n + 1`, so the number of times that it was done to a row can
//! be told from the row. `seed` rows are made with the table, before anything transforms it. The others are inserted by
//! the writer, with `born`: how often the transform had been applied when they were. `touched` counts the writer's updates.

use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A table whose rows are transformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A bigint key, in SQL.
    Big,
    /// A uuid key, in SQL.
    Uuid,
    /// A key of a text and an integer, in SQL.
    Pair,
    /// A bigint key, in code.
    Code,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 4] = [Self::Big, Self::Uuid, Self::Pair, Self::Code];

    /// Its part of names.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Big => "big",
            Self::Uuid => "uuid",
            Self::Pair => "pair",
            Self::Code => "code",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Big | Self::Code => "id bigint PRIMARY KEY",
            Self::Uuid => "id uuid PRIMARY KEY DEFAULT gen_random_uuid()",
            Self::Pair => "region text NOT NULL, no integer NOT NULL, PRIMARY KEY (region, no)",
        }
    }

    fn columns(self) -> &'static str {
        match self {
            Self::Big | Self::Code | Self::Uuid => "id",
            Self::Pair => "region, no",
        }
    }

    /// The key of the seed row `i`.
    fn seed(self) -> &'static str {
        match self {
            Self::Big | Self::Code => "i * 10",
            Self::Uuid => "gen_random_uuid()",
            Self::Pair => "'region ' || (i % 7), i * 10",
        }
    }
}

/// The table of a kind in a round.
pub(crate) fn table(round: usize, kind: Kind) -> String {
    format!("r{round}_{}", kind.word())
}

/// The migration that transforms it.
pub(crate) fn transform(round: usize, kind: Kind) -> String {
    format!("r{round}-{}", kind.word())
}

/// The migrations of a round.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// Its number, from 0.
    pub(crate) number: usize,
    /// How many rows each table is made with.
    pub(crate) rows: u32,
    /// The definitions, each with the name of its file.
    pub(crate) definitions: Vec<(String, String)>,
    /// The migrations that are to be repeated once all are applied.
    pub(crate) repeats: Vec<String>,
}

impl Round {
    /// Draws a round.
    pub(crate) fn draw(seed: u64, number: usize) -> Self {
        let salt = u64::try_from(number).unwrap_or(0).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut rng = StdRng::seed_from_u64(seed ^ salt);
        let rows = rng.random_range(800..3000);
        let mut set = Set { number, definitions: Vec::new() };
        set.make(rows);
        set.label();
        set.tally();
        for kind in Kind::ALL {
            set.transform(kind, &mut rng);
        }
        set.index();
        set.copy(&mut rng);
        let may_repeat: Vec<String> =
            Kind::ALL.iter().map(|kind| transform(number, *kind)).chain([format!("r{number}-tally")]).collect();
        let count = rng.random_range(0..3);
        let repeats = may_repeat.choose_multiple(&mut rng, count).cloned().collect();
        Self { number, rows, definitions: set.definitions, repeats }
    }
}

struct Set {
    number: usize,
    definitions: Vec<(String, String)>,
}

impl Set {
    fn add(&mut self, word: &str, run_after: &[&str], body: &str) {
        let number = self.number;
        let after: Vec<String> = run_after.iter().map(|word| format!("\"r{number}-{word}\"")).collect();
        let version = number * 10 + self.definitions.len() + 1;
        let text = format!(
            "id = \"r{number}-{word}\"\nversion = {version}\nname = \"{word} of round {number}\"\n\
             description = \"For chaos.\"\nrun_after = [{}]\n\n{body}",
            after.join(", ")
        );
        self.definitions.push((format!("r{number}-{word}.toml"), text));
    }

    /// What an atomic migration does that must not be done twice.
    fn tell(&self, word: &str) -> String {
        format!("INSERT INTO chaos.told (migration) VALUES ('r{}-{word}');", self.number)
    }

    fn make(&mut self, rows: u32) {
        let mut body = String::new();
        for kind in Kind::ALL {
            let table = table(self.number, kind);
            let _infallible = write!(
                body,
                "[[step]]\nname = \"{table}\"\nsql = '''\n\
                 CREATE TABLE {table} (was bigint NOT NULL, n bigint NOT NULL, seed boolean NOT NULL DEFAULT false, \
                 born integer NOT NULL DEFAULT 0, touched bigint NOT NULL DEFAULT 0, filler text NOT NULL DEFAULT repeat('x', 600), \
                 {});\n\
                 INSERT INTO {table} ({}, was, n, seed)\n\
                 SELECT {}, i % 1000 + 1, i % 1000 + 1, true FROM generate_series(1, {rows}) AS i;\n\
                 CREATE TRIGGER linger AFTER UPDATE OF n ON {table} FOR EACH STATEMENT EXECUTE FUNCTION chaos.linger({});\n'''\n\n",
                kind.key(),
                kind.columns(),
                kind.seed(),
                // Code changes row by row.
                if kind == Kind::Code { 0.02 } else { 0.3 }
            );
        }
        let _infallible = writeln!(body, "[[step]]\nname = \"tell\"\nsql = \"{}\"", self.tell("make"));
        self.add("make", &[], &body);
    }

    fn label(&mut self) {
        let table = table(self.number, Kind::Big);
        let body = format!(
            "[[step]]\nname = \"add\"\nsql = \"ALTER TABLE {table} ADD COLUMN label text NOT NULL DEFAULT 'none'; {}\"\n",
            self.tell("label")
        );
        self.add("label", &["make"], &body);
    }

    fn tally(&mut self) {
        let body = format!("[[step]]\nname = \"count\"\nsql = \"{}\"\n", self.tell("tally"));
        self.add("tally", &["make"], &body);
    }

    fn transform(&mut self, kind: Kind, rng: &mut StdRng) {
        let table = table(self.number, kind);
        let what = match kind {
            Kind::Code => "transform = \"triple\"".to_owned(),
            Kind::Big | Kind::Uuid | Kind::Pair => {
                format!("sql = \"UPDATE {table} SET n = n * 3 + 1 WHERE :batch\"")
            }
        };
        let body = format!(
            "[[before]]\nname = \"there are rows\"\nsql = \"SELECT EXISTS (SELECT FROM {table} WHERE seed)\"\n\n\
             [[step]]\nname = \"triple\"\nbatch = {{ table = \"{table}\", {} }}\n{what}\n\n\
             [[after]]\nname = \"every seed row is transformed\"\n\
             sql = \"SELECT NOT EXISTS (SELECT FROM {table} WHERE seed AND n = was)\"\n",
            batch(rng)
        );
        let run_after: &[&str] = if kind == Kind::Big { &["label"] } else { &["make"] };
        self.add(kind.word(), run_after, &body);
    }

    fn index(&mut self) {
        let table = table(self.number, Kind::Big);
        let body = format!(
            "[[step]]\nname = \"build\"\ntransaction = false\nsql = \"CREATE INDEX CONCURRENTLY {table}_n ON {table} (n)\"\n"
        );
        self.add("index", &["big"], &body);
    }

    fn copy(&mut self, rng: &mut StdRng) {
        let (number, table) = (self.number, table(self.number, Kind::Code));
        let body = format!(
            "[[step]]\nname = \"make\"\nsql = \"CREATE TABLE r{number}_copy (id bigint NOT NULL); {}\"\n\n\
             [[step]]\nname = \"fill\"\nbatch = {{ table = \"{table}\", {} }}\n\
             sql = \"INSERT INTO r{number}_copy SELECT id FROM {table} WHERE :batch\"\n\n\
             [[step]]\nname = \"tell\"\nsql = \"{}\"\n\n\
             [[after]]\nname = \"every seed row is copied\"\nsql = \"SELECT NOT EXISTS (SELECT FROM {table} AS t WHERE seed \
             AND NOT EXISTS (SELECT FROM r{number}_copy AS c WHERE c.id = t.id))\"\n",
            self.tell("copy/make"),
            batch(rng),
            self.tell("copy/tell")
        );
        self.add("copy", &["code", "uuid", "pair"], &body);
    }
}

/// How a table is cut.
fn batch(rng: &mut StdRng) -> String {
    let size = rng.random_range(3..30);
    let range = size * rng.random_range(3..30);
    let stripes = match rng.random_range(0..3) {
        0 => String::new(),
        1 => ", stripes = 1".to_owned(),
        _ => format!(", stripes = {}", rng.random_range(2..6)),
    };
    format!("size = {size}, range = {range}{stripes}")
}

#[cfg(test)]
mod tests {
    use dunlin_shared::migration::set::{self, SourceFile};

    use super::*;

    #[test]
    fn a_round_is_a_set_that_can_be_registered() {
        for number in [0, 1, 17] {
            let round = Round::draw(7, number);
            let files: Vec<SourceFile> = round
                .definitions
                .iter()
                .map(|(path, text)| SourceFile { path: path.clone(), content: text.clone() })
                .collect();
            let set = set::Set::parse(&files, &[]).unwrap_or_else(|problems| panic!("{problems:?}"));
            assert_eq!(set.entries.len(), 9);
        }
    }
}
