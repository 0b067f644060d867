//! The name of a type, as it goes into SQL: nothing else fits into it.
//!
//! Types cannot be quoted, since some of their names are words of the grammar. Names come from catalogs, through controllers and other
//! agents, and from checkpoints; whatever is not what `format_type` writes is refused where it enters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Error, text_id};

text_id!(
    /// The name of a type as `format_type` writes it, without a length, where the `search_path` has PostgreSQL's own schema alone.
    TypeName,
    "the name of a type",
    "a name as `format_type` writes it, with its schema where it is not PostgreSQL's own, each part quoted where needed",
    valid
);

/// The names of types that have several words. The others are like those of any type.
const WORDS: [&str; 7] = [
    "bit varying",
    "character varying",
    "double precision",
    "time with time zone",
    "time without time zone",
    "timestamp with time zone",
    "timestamp without time zone",
];

/// The longest name in bytes: a schema and a type of 255 bytes, quoted, and an array of it.
const LONGEST: usize = 1100;

fn valid(text: &str) -> bool {
    let element = text.strip_suffix("[]").unwrap_or(text);
    text.len() <= LONGEST
        && !text.contains('\0')
        && (WORDS.contains(&element)
            || match identifier(element) {
                Some("") => true,
                Some(rest) => rest.strip_prefix('.').and_then(identifier) == Some(""),
                None => false,
            })
}

/// What stands behind an identifier as `quote_ident` writes it; `None` where there is none.
fn identifier(text: &str) -> Option<&str> {
    let Some(quoted) = text.strip_prefix('"') else {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        let rest = text.strip_prefix(plain)?;
        return Some(rest.trim_start_matches(|c: char| plain(c) || c.is_ascii_digit()));
    };
    let mut rest = quoted;
    loop {
        let (_, behind) = rest.split_once('"')?;
        match behind.strip_prefix('"') {
            Some(more) => rest = more,
            None => return (!quoted.starts_with('"') || rest.len() < quoted.len()).then_some(behind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{self, throwaway};

    #[test]
    fn nothing_but_the_name_of_a_type_is_one() {
        for good in [
            "bigint",
            "timestamp with time zone",
            "double precision[]",
            "\"char\"",
            "\"bit\"",
            "public.citext",
            "\"my schema\".\"a.b\"\"c; --\"",
            "pg_temp_3.t",
            "shop.\"Größe\"[]",
            "\"\"\"\"",
        ] {
            assert!(TypeName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "bigint AND false); DROP TABLE t; COMMIT; --",
            "bigint)",
            "bigint ",
            " bigint",
            "bigint--",
            "bigint/**/",
            "a.b.c",
            "a.",
            ".a",
            "[]",
            "a[][]",
            "a[1]",
            "a\nb",
            "\"a",
            "\"a\"b",
            "\"\"",
            "\"a\"\"",
            "a\".b\"",
            "numeric(10,2)",
            "Größe",
            "A",
            "1a",
            "a'b",
            "a$b",
            "\"a\0b\"",
            "double  precision",
            "timestamp with time zone AND true",
            &"a".repeat(2000),
        ] {
            assert!(TypeName::parse(bad).is_err(), "{bad}");
            assert!(serde_json::from_value::<TypeName>(bad.into()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn every_type_of_a_server_has_such_a_name() {
        let url = throwaway::shared().await.database("types").await.unwrap();
        let (client, _connection) = postgres::connect(&url, "test").await.unwrap();
        client
            .batch_execute(
                "CREATE SCHEMA \"My \"\"schema\"; CREATE TYPE \"My \"\"schema\".\"a.b; --\" AS ENUM (); CREATE DOMAIN select_ AS int;
                 CREATE DOMAIN \"select\" AS int; CREATE DOMAIN \"größe\" AS int; CREATE TYPE pg_temp.t AS (a int);
                 SET search_path = pg_catalog",
            )
            .await
            .unwrap();
        let rows = client.query("SELECT format_type(oid, -1) FROM pg_type", &[]).await.unwrap();
        assert!(rows.len() > 400);
        for row in rows {
            let name: String = row.get(0);
            let parsed = TypeName::parse(name.as_str());
            assert!(parsed.is_ok(), "{name}: {parsed:?}");
            let known = client.query_one(&format!("SELECT NULL::{name} IS NULL"), &[]).await;
            // A few are no types of values.
            if let Err(error) = known {
                assert!(error.code().unwrap().code() != "42601", "{name}: {error:?}");
            }
        }
    }
}
