//! Problems in definitions, each with the line of source it is about and a caret.
//!
//! All texts are escaped before they are drawn: the carets stand below what is seen.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use dunlin_shared::migration::set::{Problem, SourceFile};
use dunlin_shared::visible::escaped;

use super::Look;
use super::look::drawn;

/// All problems, one after the other.
pub(crate) fn problems(look: &Look, problems: &[Problem], files: &[SourceFile]) -> String {
    let renderer = if look.colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(look.width.unwrap_or(1_000));
    let texts = problems.iter().map(|problem| {
        let source = files.iter().find(|file| file.path == problem.file).map(|file| file.content.as_str());
        drawn(&renderer.render(&[group(problem, source)]))
    });
    texts.collect::<Vec<_>>().join("\n\n")
}

fn group<'a>(problem: &'a Problem, source: Option<&str>) -> Group<'a> {
    let level = if problem.is_warning() { Level::WARNING } else { Level::ERROR };
    let title = level.primary_title(escaped(&problem.message));
    let line = usize::try_from(problem.line).unwrap_or(0);
    let column = usize::try_from(problem.column).unwrap_or(0);
    let group = match source.and_then(|source| span(source, line, column)) {
        Some((source, span)) => title.element(
            Snippet::source(source)
                .path(escaped(&problem.file))
                .line_start(line)
                .annotation(AnnotationKind::Primary.span(span)),
        ),
        None if problem.file.is_empty() => Group::with_title(title),
        None => title.element(Origin::path(escaped(&problem.file))),
    };
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(escaped(help))),
        None => group,
    }
}

/// The line of the place, escaped, and the bytes in it of the token that begins there.
fn span(source: &str, line: usize, column: usize) -> Option<(String, Range<usize>)> {
    let text = source.lines().nth(line.checked_sub(1)?)?;
    let start = text.char_indices().nth(column.checked_sub(1)?).map_or(text.len(), |(start, _)| start);
    let rest = &text[start..];
    let length = match rest.chars().next() {
        // The place of a text is behind its quotation mark.
        Some(_) if text[..start].ends_with(['"', '\'']) => {
            rest.find(['"', '\'']).filter(|end| *end > 0).unwrap_or(rest.len())
        }
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        Some('[') if rest.starts_with("[[") => rest.find("]]").map_or(rest.len(), |end| end + 2),
        Some(_) => rest.find([' ', '\t', '=', ',', ']', '}', ';', '(', ')']).unwrap_or(rest.len()).max(1),
        None => 0,
    };
    let [before, token, behind] = [&text[..start], &rest[..length], &rest[length..]].map(escaped);
    let start = before.len();
    Some((format!("{before}{token}{behind}"), start..start + token.len()))
}

#[cfg(test)]
mod tests {
    use dunlin_shared::migration::set::Severity;

    use super::*;

    fn text(line: u32, column: u32, content: &str) -> String {
        let file = "0005-roles.toml".to_owned();
        let problem = Problem {
            file: file.clone(),
            line,
            column,
            message: "unknown field `steps`".to_owned(),
            help: Some("the field is called `step`".to_owned()),
            severity: Severity::Error,
        };
        problems(&Look::plain(None), &[problem], &[SourceFile { path: file, content: content.to_owned() }])
    }

    #[test]
    fn a_problem_shows_its_line_and_a_caret() {
        assert_eq!(
            text(2, 1, "id = \"a\"\nsteps = [1, 2]\n"),
            "error: unknown field `steps`\n \
              --> 0005-roles.toml:2:1\n  \
               |\n\
             2 | steps = [1, 2]\n  \
               | ^^^^^\n  \
               |\n  \
               = help: the field is called `step`"
        );
    }

    #[test]
    fn a_caret_covers_a_quoted_text() {
        assert!(text(1, 6, "id = \"no such\"\n").contains("|      ^^^^^^^^^\n"));
    }

    #[test]
    fn a_caret_covers_a_text_whose_place_is_behind_the_quotation_mark() {
        assert!(text(1, 7, "id = \"no such\"\n").contains("|       ^^^^^^^\n"));
    }

    #[test]
    fn a_place_outside_the_text_leaves_only_the_path() {
        let text = text(9, 1, "id = \"a\"\n");
        assert!(text.starts_with("error: unknown field `steps`\n"), "{text}");
        assert!(text.contains("0005-roles.toml"), "{text}");
    }

    #[test]
    fn columns_count_characters() {
        let (line, range) = span("a = \"é\" steps", 1, 9).unwrap();
        assert_eq!(&line[range], "steps");
    }

    #[test]
    fn a_caret_stands_below_what_is_seen_of_a_token() {
        let text = text(1, 3, "\u{1b}\u{202e}a\rb = 1");
        assert!(text.contains("\n1 | \\x1b\\u{202e}a\\x0db = 1\n"), "{text:?}");
        let expected = format!("\n  | {}^^^^^^\n", " ".repeat("\\x1b\\u{202e}".len()));
        assert!(text.contains(&expected), "{text:?}");
    }
}
