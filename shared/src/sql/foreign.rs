//! What stands in texts of SQL and is none: commands of psql, the data of COPY, templates and variables of other tools.
//!
//! A text that was written for psql or for a template engine is refused for what it is, and not for the syntax errors or the quotes
//! that never end that come of it. What is found is blanked, byte for byte, so that what stands behind it is read as if it were
//! not there, and keeps its place.
//!
//! What must stay true: no SQL that PostgreSQL takes is taken for something else. So only what its lexer or its grammar has no
//! place for counts: a backslash or a brace outside of quotes, and what no statement begins with.

use std::borrow::Cow;
use std::ops::Range;

use squawk_lexer::{LiteralKind, TokenKind};

use super::lex::{Token, lex};

/// The most that is told of one text.
const MOST: usize = 100;

/// The most bytes in which a template's expression must end to be taken for one as a whole.
const LONGEST: usize = 10_000;

/// Something that is no SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// Where it begins, in bytes from the start of the text.
    pub(crate) offset: usize,
    /// What it is.
    pub(crate) what: What,
}

/// What something is that is no SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A command of psql, with its backslash.
    Command(String),
    /// What opens an expression of a template, such as `{{`.
    Template(&'static str),
    /// A variable of psql at the begin of a statement, with its colon.
    Variable(String),
    /// A statement that begins with a dollar: a variable of a shell or of another tool, or a parameter.
    Dollar(String),
    /// A dollar-quoted string where a statement should begin.
    Body,
}

/// A text looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looked<'a> {
    /// What is no SQL, in order; at most 100.
    pub(crate) foreign: Vec<Foreign>,
    /// The text with blanks in the place of all that is no SQL: as long, and with the same lines.
    pub(crate) sql: Cow<'a, str>,
}

/// Looks for what is no SQL.
pub(crate) fn look(sql: &str) -> Looked<'_> {
    let Scan { foreign, blank, .. } = Scan::of(sql);
    Looked { foreign, sql: blanked(sql, &blank) }
}

/// The text without `\restrict` and `\unrestrict`, which newer versions of pg_dump put around a dump: they forbid commands of psql
/// that stand between them and say nothing to PostgreSQL. There are blanks in their place.
pub(crate) fn without_restrictions(sql: &str) -> Cow<'_, str> {
    if !sql.contains("restrict") || !sql.contains('\\') {
        return Cow::Borrowed(sql);
    }
    blanked(sql, &Scan::of(sql).harmless)
}

fn blanked<'a>(sql: &'a str, regions: &[Range<usize>]) -> Cow<'a, str> {
    if regions.is_empty() {
        return Cow::Borrowed(sql);
    }
    let mut text = String::with_capacity(sql.len());
    let mut done = 0;
    for region in regions {
        text.push_str(&sql[done..region.start]);
        text.extend(sql[region.clone()].bytes().map(|byte| match byte {
            b'\n' | b'\r' => char::from(byte),
            _ => ' ',
        }));
        done = region.end;
    }
    text.push_str(&sql[done..]);
    Cow::Owned(text)
}

#[derive(Default)]
struct Scan {
    foreign: Vec<Foreign>,
    /// All that is no SQL.
    blank: Vec<Range<usize>>,
    /// Of it, what is none of PostgreSQL's business, and does no harm to leave out.
    harmless: Vec<Range<usize>>,
    /// The words of the statement so far that tell a COPY with data.
    copy: Data,
    /// Nothing ends data from here on. Looked for once: a text may have many a COPY.
    endless: bool,
}

/// How much of `COPY ... FROM STDIN` a statement has.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Data {
    /// Nothing: the statement has not begun.
    #[default]
    Begin,
    Word,
    From,
    Stdin,
    /// It is another statement.
    Other,
}

impl Scan {
    fn of(sql: &str) -> Self {
        let mut scan = Self::default();
        lex(sql, |token| scan.token(sql, token));
        scan
    }

    /// Takes a token; where the text is to be read on, unless behind it.
    fn token(&mut self, sql: &str, token: &Token<'_>) -> Option<usize> {
        if token.is_trivia() {
            return None;
        }
        let at = token.offset;
        if token.text == "\\" {
            return Some(self.command(sql, at));
        }
        if let Some((open, close)) = template(&sql[at..]) {
            return Some(self.template(sql, at, open, close));
        }
        if self.copy == Data::Begin
            && let Some(what) = no_begin(sql, token)
        {
            self.tell(at, what);
        }
        match (self.copy, token.kind) {
            (Data::Stdin, TokenKind::Semi) => {
                self.copy = Data::Begin;
                return self.data(sql, at + 1);
            }
            (_, TokenKind::Semi) => self.copy = Data::Begin,
            (Data::Begin, _) => self.copy = if token.is_word("COPY") { Data::Word } else { Data::Other },
            (Data::Word, _) if token.is_word("FROM") => self.copy = Data::From,
            (Data::From, _) => self.copy = if token.is_word("STDIN") { Data::Stdin } else { Data::Other },
            _ => {}
        }
        None
    }

    fn tell(&mut self, offset: usize, what: What) {
        if self.foreign.len() < MOST {
            self.foreign.push(Foreign { offset, what });
        }
    }

    /// A command of psql reaches to the end of its line.
    fn command(&mut self, sql: &str, at: usize) -> usize {
        let end = at + line(&sql[at..]);
        let name = sql[at..end].split_whitespace().next().unwrap_or("\\");
        let name: String = name.chars().take(20).collect();
        self.blank.push(at..end);
        if matches!(name.as_str(), "\\restrict" | "\\unrestrict") {
            self.harmless.push(at..end);
        } else {
            self.tell(at, What::Command(name));
            // Many a command ends a statement and sends it.
            self.copy = Data::Begin;
        }
        end
    }

    fn template(&mut self, sql: &str, at: usize, open: &'static str, close: &str) -> usize {
        let rest = &sql[at..];
        let near = &rest[..rest.floor_char_boundary(LONGEST)];
        let end = at + near.find(close).map_or_else(|| line(rest), |end| end + close.len());
        self.blank.push(at..end);
        self.tell(at, What::Template(open));
        end
    }

    /// The data of a COPY: the lines behind it up to `\.`. There are none where that is missing.
    fn data(&mut self, sql: &str, behind: usize) -> Option<usize> {
        if self.endless {
            return None;
        }
        let start = behind + line(&sql[behind..]);
        let mut end = start;
        for line in sql[start..].split_inclusive('\n') {
            end += line.len();
            if line.trim_end_matches(['\n', '\r']) == "\\." {
                self.blank.push(start..end);
                return Some(end);
            }
        }
        self.endless = true;
        None
    }
}

/// The bytes of the first line, without its end.
fn line(text: &str) -> usize {
    text.find(['\n', '\r']).unwrap_or(text.len())
}

/// What opens a template here, and what closes it. No token of SQL begins with a brace; a dollar is none before one.
fn template(text: &str) -> Option<(&'static str, &'static str)> {
    let pairs = [("{{", "}}"), ("{%", "%}"), ("{#", "#}"), ("${", "}")];
    pairs.into_iter().find(|(open, _)| text.starts_with(open))
}

/// What a token is that no statement begins with.
fn no_begin(sql: &str, token: &Token<'_>) -> Option<What> {
    let rest = &sql[token.offset..];
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(40).collect::<String>();
    match token.kind {
        TokenKind::Literal { kind: LiteralKind::DollarQuotedString { .. } } => Some(What::Body),
        TokenKind::Colon => {
            let quote = rest[1..].chars().next().filter(|c| matches!(c, '\'' | '"'));
            let name = name(&rest[1 + quote.map_or(0, char::len_utf8)..]);
            let quote = quote.map(String::from).unwrap_or_default();
            // `:batch` has rules of its own.
            (!name.is_empty() && name != "batch").then(|| What::Variable(format!(":{quote}{name}{quote}")))
        }
        _ if rest.starts_with('$') => {
            let open = if rest.starts_with("$(") { "(" } else { "" };
            Some(What::Dollar(format!(
                "${open}{}{}",
                name(&rest[1 + open.len()..]),
                if open.is_empty() { "" } else { ")" }
            )))
        }
        _ => None,
    }
}

impl What {
    /// What it is, and the way out.
    pub(crate) fn told(&self) -> (String, String) {
        match self {
            Self::Command(name) => {
                let message = format!("`{name}` is a command of psql, not SQL: there is no psql");
                (message, of_psql(name).to_owned())
            }
            Self::Template(open) => {
                let message = format!("`{open}` is not SQL: it looks like a template of another tool");
                (message, "Dunlin has no templates: write the SQL that comes out of it".to_owned())
            }
            Self::Variable(name) => {
                let message = format!("no statement begins with `{name}`: it looks like a variable of psql");
                (message, "Dunlin has no variables: write what it stands for".to_owned())
            }
            Self::Dollar(name) if name[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let message = format!("no statement begins with `{name}`: it looks like a parameter");
                (message, "nobody gives it a value: write what it stands for".to_owned())
            }
            Self::Dollar(name) => {
                let message =
                    format!("no statement begins with `{name}`: it looks like a variable of a shell or of a template");
                (message, "Dunlin has no variables: write what it stands for".to_owned())
            }
            Self::Body => {
                let message = "no statement begins with a dollar-quoted string".to_owned();
                (
                    message,
                    "it looks like the body of a block: write DO before it, or what else it belongs to".to_owned(),
                )
            }
        }
    }
}

/// What does in a definition what a command does in psql.
fn of_psql(name: &str) -> &'static str {
    match name {
        "\\i" | "\\ir" | "\\include" | "\\include_relative" => "give the other file a step of its own: file = \"...\"",
        "\\copy" => "write INSERT ... VALUES, or COPY from a file on the server, which PostgreSQL reads by itself",
        "\\." => "it ends the data of a COPY, which needs psql: write INSERT ... VALUES (`pg_dump --inserts` does)",
        "\\c" | "\\connect" => "leave it out: a migration changes one database, the target that it is run on",
        "\\gexec" => "write a DO block that does EXECUTE for each row",
        "\\g" | "\\gx" | "\\;" => "end the statement with a semicolon",
        "\\set" | "\\gset" | "\\unset" | "\\prompt" | "\\getenv" => {
            "Dunlin has no variables: write the value where it is used"
        }
        "\\if" | "\\elif" | "\\else" | "\\endif" => "write a DO block with IF, or two migrations",
        "\\encoding" => "leave it out: the files of a set are UTF-8",
        _ => "leave it out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sql: &str) -> Vec<(usize, What)> {
        look(sql).foreign.into_iter().map(|foreign| (foreign.offset, foreign.what)).collect()
    }

    fn command(name: &str) -> What {
        What::Command(name.to_owned())
    }

    #[test]
    fn commands_of_psql_reach_to_the_end_of_their_line_whatever_they_hold() {
        assert_eq!(told("\\set x 'it''s'\nSELECT 1;"), [(0, command("\\set"))]);
        assert_eq!(told("\\echo It's here\r\nSELECT 'x';\n  \\d+ t"), [(0, command("\\echo")), (31, command("\\d+"))]);
        assert_eq!(told("SELECT 1 \\gset\nSELECT 2"), [(9, command("\\gset"))]);
        assert_eq!(look("\\echo é'\nSELECT 1").sql, "         \nSELECT 1");
    }

    #[test]
    fn the_data_of_a_copy_is_read_by_nobody() {
        let sql = "COPY t (a) FROM stdin WITH (FORMAT text);\nit's \\N {{ $$\n\\.\nSELECT 1;\n";
        assert_eq!(told(sql), []);
        assert_eq!(look(sql).sql.len(), sql.len());
        assert!(look(sql).sql.ends_with("\n  \nSELECT 1;\n") && !look(sql).sql.contains("it's"), "{:?}", look(sql).sql);
        assert_eq!(told("COPY t FROM STDIN;\n1\n"), [], "and nothing is taken for data that nothing ends");
        assert_eq!(told("COPY t FROM '/a';\n\\.\n"), [(18, command("\\."))]);
    }

    #[test]
    fn templates_and_variables_are_named_for_what_they_look_like() {
        assert_eq!(told("{{ config('x') }}\nSELECT 1"), [(0, What::Template("{{"))]);
        assert_eq!(
            told("SELECT * FROM ${schema}.t; {% if x %}"),
            [(14, What::Template("${")), (27, What::Template("{%"))]
        );
        let variable = |name: &str| What::Variable(name.to_owned());
        assert_eq!(told(":setup; :'name' x; :batch"), [(0, variable(":setup")), (8, variable(":'name'"))]);
        let dollar = |name: &str| What::Dollar(name.to_owned());
        assert_eq!(
            told("$SETUP; SELECT 1; $(x); $1"),
            [(0, dollar("$SETUP")), (18, dollar("$(x)")), (24, dollar("$1"))]
        );
        assert_eq!(told("$$ BEGIN END $$"), [(0, What::Body)]);
    }

    #[test]
    fn what_is_quoted_or_has_a_place_in_sql_is_left_alone() {
        for sql in [
            "SELECT '\\d', E'\\\\', \"a\\b\", $$ \\set {{ x }} $$ -- \\x {{",
            "SELECT a[:b], a[1:2], x::int, '{{1,2},{3,4}}'::int[], $1 /* \\q */",
            "PREPARE p AS SELECT $1; EXECUTE p(1); SELECT a$b, c$ FROM t$1",
            "SELECT U&'\\0041', U&\"\\0041\", '${x}', E'\\'{{'",
            "COPY t TO '/tmp/x'; COPY (SELECT 1) TO PROGRAM 'cat'",
        ] {
            assert_eq!(told(sql), [], "{sql}");
            assert!(matches!(look(sql).sql, Cow::Borrowed(_)));
        }
    }

    #[test]
    fn the_marks_that_pg_dump_puts_around_a_dump_are_left_out() {
        let sql = "--\n\\restrict abc'def\n\nSELECT '\\restrict';\n\\unrestrict abc'def\n";
        assert_eq!(told(sql), []);
        let left = without_restrictions(sql);
        assert_eq!((left.len(), left.lines().count()), (sql.len(), sql.lines().count()));
        assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["--", "SELECT", "'\\restrict';"]);
        assert_eq!(without_restrictions("\\echo\n\\d restrict"), "\\echo\n\\d restrict");
    }

    #[test]
    fn of_any_number_a_hundred_are_told_and_soon() {
        let many = look(&"\\echo it's\n".repeat(50_000)).foreign;
        assert_eq!(many.len(), MOST);
        assert_eq!(look(&"COPY t FROM STDIN;\n".repeat(50_000)).foreign, []);
        assert_eq!(look(&"{{\n".repeat(50_000)).foreign.len(), MOST);
    }
}
