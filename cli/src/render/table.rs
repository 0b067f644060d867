//! Tables without lines: a header, columns two spaces apart.
//!
//! At most the last column wraps, and only where a sensible width is left for it; otherwise the terminal may break long
//! lines, which is easier to read than words cut into columns of a few characters. Without a terminal nothing wraps, so
//! that each row is a line for `grep`.

use comfy_table::{CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width};
use dunlin_shared::visible::escaped;

use super::Look;
use super::look::drawn;

/// The least width at which the last column is wrapped.
const LEAST: usize = 24;

/// Where the content of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// What stands in one place of a table: escaped, since it is laid out by what is seen of it.
#[derive(Debug)]
pub(crate) struct Cell(comfy_table::Cell);

impl Cell {
    pub(crate) fn new(content: impl ToString) -> Self {
        Self(comfy_table::Cell::new(escaped(&content.to_string())))
    }

    /// In a colour.
    pub(crate) fn fg(self, colour: Color) -> Self {
        Self(self.0.fg(colour))
    }

    fn aligned(self, align: Align) -> comfy_table::Cell {
        self.0.set_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        })
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(content: T) -> Self {
        Self::new(content)
    }
}

/// A table that is being filled.
#[derive(Debug)]
pub(crate) struct Columns {
    table: Table,
    align: Vec<Align>,
    width: Option<usize>,
}

impl Columns {
    /// An empty table with its header.
    pub(crate) fn new(look: &Look, header: &[(&str, Align)]) -> Self {
        let mut table = Table::new();
        if look.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let align: Vec<Align> = header.iter().map(|(_, align)| *align).collect();
        table.set_header(header.iter().map(|(name, align)| Cell::new(name).aligned(*align)));
        Self { table, align, width: look.width }
    }

    /// Adds a row.
    pub(crate) fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) -> &mut Self {
        let cells = cells.into_iter().zip(&self.align).map(|(cell, align)| cell.into().aligned(*align));
        self.table.add_row(cells);
        self
    }

    /// The text, without spaces at the ends of lines.
    pub(crate) fn render(mut self) -> String {
        let widths: Vec<usize> = self.table.column_max_content_widths().into_iter().map(usize::from).collect();
        let (last, rest) = widths.split_last().unwrap_or((&0, &[]));
        let used: usize = rest.iter().map(|width| width + 2).sum();
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        if let Some(column) = self.table.column_mut(rest.len()) {
            column.set_padding((0, 0));
            if let Some(left) = self.width.and_then(|width| width.checked_sub(used)).filter(|left| *left >= LEAST)
                && *last > left
            {
                column
                    .set_constraint(ColumnConstraint::Absolute(Width::Fixed(u16::try_from(left).unwrap_or(u16::MAX))));
            }
        }
        self.table.set_content_arrangement(ContentArrangement::Disabled);
        self.table.load_style(comfy_table::presets::NOTHING);
        self.table.lines().map(|line| format!("{}\n", drawn(line.trim_end()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(width: Option<usize>) -> String {
        let mut table =
            Columns::new(&Look::plain(width), &[("ID", Align::Left), ("ROWS", Align::Right), ("WHY", Align::Left)]);
        table.row(["add-course-level-field", "500,000", "waits for the migration that adds the column"]);
        table.row(["b", "1", "-"]);
        table.render()
    }

    #[test]
    fn nothing_wraps_without_a_terminal() {
        assert_eq!(
            sample(None),
            "ID                         ROWS  WHY\n\
             add-course-level-field  500,000  waits for the migration that adds the column\n\
             b                             1  -\n"
        );
    }

    #[test]
    fn only_the_last_column_wraps() {
        assert_eq!(
            sample(Some(60)),
            "ID                         ROWS  WHY\n\
             add-course-level-field  500,000  waits for the migration\n\
             \x20                                that adds the column\n\
             b                             1  -\n"
        );
    }

    #[test]
    fn a_terminal_that_is_too_narrow_breaks_lines_itself() {
        assert_eq!(sample(Some(40)), sample(None));
    }

    #[test]
    fn the_content_of_a_cell_does_nothing_to_a_terminal() {
        let look = Look { colour: true, ..Look::plain(Some(60)) };
        let mut table = Columns::new(&look, &[("ID", Align::Left), ("WHY", Align::Left)]);
        table.row([Cell::new("a\u{1b}[2J").fg(Color::Red), Cell::new("b\r\u{202e}c")]);
        let text = crate::render::shown(&table.render());
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains("\u{1b}[") && row.contains("a\\x1b[2J") && row.contains("b\\x0d\\u{202e}c"), "{row:?}");
        assert!(!row.contains("\u{1b}[2J") && !row.contains(['\r', '\u{202e}']), "{row:?}");
    }
}
