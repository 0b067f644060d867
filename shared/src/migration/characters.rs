//! Characters in SQL that nobody sees: control characters, byte order marks, and line ends inside of strings.
//!
//! Nobody writes them on purpose: TOML turns `\b` in a text into a backspace, `cat a.sql b.sql` puts a byte order mark into the middle,
//! and git turns line ends around. PostgreSQL takes them, and a statement then silently does something else.

use std::collections::BTreeSet;

use super::rules::Sql;
use super::set::Problem;
use crate::sql::lex::each;

/// The characters that do not belong into SQL, each where it stands first; and a warning for line ends that become data.
pub(super) fn problems(sql: &Sql<'_>) -> Vec<Problem> {
    let mut told = BTreeSet::new();
    let odd = sql.text.char_indices().filter(|(_, c)| is_odd(*c));
    let mut found: Vec<Problem> = odd.filter(|(_, c)| told.insert(*c)).map(|(at, c)| problem(sql, at, c)).collect();
    found.extend(line_ends(sql));
    found
}

/// A control character that is no blank, or a byte order mark, which only a file begins with.
fn is_odd(c: char) -> bool {
    c == '\u{feff}' || c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}')
}

fn problem(sql: &Sql<'_>, at: usize, c: char) -> Problem {
    let code = u32::from(c);
    if c == '\u{feff}' {
        let message = "a byte order mark (U+FEFF) inside of SQL: it belongs at the begin of a file or nowhere";
        let help = "remove it: of files that were put together each began with one. In a value write it as U&'\\FEFF'";
        return sql.problem(at, message, Some(help));
    }
    let message = format!("the control character U+{code:04X}{} in SQL", name(c));
    let help = if c == '\u{8}' && !sql.exact {
        "in a TOML text in double quotes `\\b` is a backspace: write the SQL in single quotes ('''...'''), or `\\\\b`"
            .to_owned()
    } else {
        format!("remove it; in a value write it as an escape: E'\\x{code:02X}'")
    };
    sql.problem(at, message, Some(&help))
}

fn name(c: char) -> &'static str {
    match c {
        '\u{7}' => " (bell)",
        '\u{8}' => " (backspace)",
        '\u{b}' => " (vertical tab)",
        '\u{1a}' => " (Ctrl-Z, an end of file)",
        '\u{1b}' => " (escape)",
        '\u{7f}' => " (delete)",
        _ => "",
    }
}

/// The first carriage return in a string or a quoted name: it is data, and comes and goes with the line ends of the checkout.
fn line_ends(sql: &Sql<'_>) -> Option<Problem> {
    // One that the definition writes as an escape is meant.
    if !sql.text.contains('\r') || !sql.source.text.contains('\r') {
        return None;
    }
    let mut quoted = each(&sql.text).filter(|token| token.is_quoted());
    let at = quoted.find_map(|token| Some(token.offset + token.text.find('\r')?))?;
    let message =
        "this string has a carriage return (CR) at the end of a line: PostgreSQL keeps it, as part of the value";
    let help = "save the file with LF line ends, and keep them so by a line in .gitattributes: `*.sql text eol=lf` (for \
                definitions `*.toml text eol=lf`)";
    Some(sql.warning(at, message, help))
}
