//! Which columns of a table a statement assigns.

use squawk_syntax::{SourceFile, SyntaxKind, SyntaxNode};

use super::lex::{name_parts, tokens};
use super::placeholder::BatchSql;

/// Longer or deeper texts are not parsed: the parser recurses, also where no bracket shows it (`NOT NOT ...`, `CASE CASE ...`), and
/// takes its time with what is deep. It gets a stack for the deepest text of so many tokens, for a thread that overflows its own
/// takes the whole program along.
const LONGEST: usize = 256 * 1024;
const DEEPEST: usize = 64;
const TOKENS: usize = 3000;
const STACK: usize = 96 * 1024 * 1024;

/// The columns of a table that the UPDATEs of a text assign, also those in WITH, MERGE and ON CONFLICT DO UPDATE; each
/// once, in order, as they are named in the catalog. Placeholders `:batch` may stand in the text.
///
/// Empty when the text cannot be parsed: the parser need not know all that the server knows.
#[must_use]
pub fn assigned_columns(sql: &str, table: &str) -> Vec<String> {
    let Ok(parsed) = BatchSql::parse(sql) else { return Vec::new() };
    let sql = parsed.render(|_| "TRUE".to_owned());
    let Some(table) = name_parts(table) else { return Vec::new() };
    if sql.len() > LONGEST || !is_bearable(&sql) {
        return Vec::new();
    }
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || read(&sql, &table));
        reading.ok().and_then(|reading| reading.join().ok()).unwrap_or_default()
    })
}

fn read(sql: &str, table: &[String]) -> Vec<String> {
    let Some(root) = parse(sql) else { return Vec::new() };
    let mut columns = Vec::new();
    for target in root.descendants().filter(|node| node.kind() == SyntaxKind::COLUMN_TARGET) {
        let Some(set) = target.ancestors().find(|node| node.kind() == SyntaxKind::SET_CLAUSE) else { continue };
        if !changed_table(&set).is_some_and(|changed| same_table(&changed, table)) {
            continue;
        }
        // Behind the name can stand a field or a subscript: they assign to a part of the column.
        let text = target.text().to_string();
        let first = tokens(&text).iter().find(|token| !token.is_trivia()).and_then(|token| token.name());
        columns.extend(first.filter(|name| !columns.contains(name)));
    }
    columns
}

fn parse(sql: &str) -> Option<SyntaxNode> {
    let parsed = SourceFile::parse(sql);
    parsed.errors().is_empty().then(|| parsed.syntax_node())
}

fn is_bearable(sql: &str) -> bool {
    let mut depth = 0_usize;
    let mut deepest = 0;
    let mut count = 0;
    for token in tokens(sql).iter().filter(|token| !token.is_trivia()) {
        count += 1;
        match token.text {
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest <= DEEPEST && count <= TOKENS
}

/// The name of the table that the statement around a SET changes.
fn changed_table(set: &SyntaxNode) -> Option<Vec<String>> {
    let statement = set
        .ancestors()
        .find(|node| matches!(node.kind(), SyntaxKind::UPDATE | SyntaxKind::INSERT | SyntaxKind::MERGE))?;
    let relation = statement.children().find(|node| {
        matches!(
            node.kind(),
            SyntaxKind::RELATION_NAME | SyntaxKind::RELATION_NAME_REF | SyntaxKind::TABLE_RELATION_NAME
        )
    })?;
    let path = relation.descendants().find(|node| node.kind() == SyntaxKind::PATH_REF)?;
    name_parts(&path.text().to_string())
}

/// Names mean the same table when they agree as far as both go: a schema can be left to the search path.
fn same_table(a: &[String], b: &[String]) -> bool {
    a.iter().rev().zip(b.iter().rev()).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_an_update_are_read() {
        for (sql, columns) in [
            ("UPDATE users SET role = 'x', \"Na\"\"me\" = 1 WHERE :batch", vec!["role", "Na\"me"]),
            ("UPDATE ONLY public.users AS u SET (ID, b) = (SELECT 1, 2) WHERE :batch(u)", vec!["id", "b"]),
            ("UPDATE users SET a[1] = 2, a[2] = 3, c.d = 4", vec!["a", "c"]),
            ("UPDATE other SET a = (SELECT max(b) FROM users)", vec![]),
            ("UPDATE elsewhere.users SET a = 1", vec!["a"]),
            ("WITH x AS (UPDATE users SET a = 1 RETURNING *) UPDATE other SET b = 2 FROM x", vec!["a"]),
            (
                "INSERT INTO users (id, a) SELECT id, a FROM t WHERE :batch ON CONFLICT (id) DO UPDATE SET a = 1",
                vec!["a"],
            ),
            ("MERGE INTO users u USING s ON s.id = u.id WHEN MATCHED THEN UPDATE SET id = 2", vec!["id"]),
            ("DELETE FROM users WHERE :batch", vec![]),
            ("this is no sql", vec![]),
        ] {
            assert_eq!(assigned_columns(sql, "users"), columns, "{sql}");
        }
    }

    #[test]
    fn no_depth_of_any_kind_overflows_the_stack() {
        for opens in ["CASE ", "NOT ", "- ", "(", "ARRAY[", "EXPLAIN ", "SELECT ", "x JOIN ", "CASE WHEN "] {
            for count in [50, 700, 2900, 50_000] {
                let _read = assigned_columns(&format!("UPDATE t SET a = {}", opens.repeat(count)), "t");
            }
        }
        assert_eq!(assigned_columns(&format!("UPDATE t SET a = {} true", "NOT ".repeat(700)), "t"), ["a"]);
    }

    #[test]
    fn schemas_tell_tables_apart_where_both_are_given() {
        assert!(assigned_columns("UPDATE a.users SET x = 1", "b.users").is_empty());
        assert_eq!(assigned_columns("UPDATE users SET x = 1", "b.users"), ["x"]);
    }
}
