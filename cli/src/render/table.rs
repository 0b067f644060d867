//! Tables without lines: a header, columns two spaces apart.
//!
//! At most the last column wraps, and only where a sensible width is left for it; otherwise the terminal may break long
//! lines, which is easier to read than words cut into columns of a few characters. Without a terminal nothing wraps, so
//! that each row is a line for `grep`.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};

use super::Look;

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
        table.set_header(header.iter().map(|(name, align)| aligned(Cell::new(name), *align)));
        Self { table, align, width: look.width }
    }

    /// Adds a row.
    pub(crate) fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) -> &mut Self {
        let cells = cells.into_iter().zip(&self.align).map(|(cell, align)| aligned(cell.into(), *align));
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
        self.table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

fn aligned(cell: Cell, align: Align) -> Cell {
    cell.set_alignment(match align {
        Align::Left => CellAlignment::Left,
        Align::Right => CellAlignment::Right,
    })
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
}
