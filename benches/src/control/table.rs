//! Tables of figures.

use comfy_table::{CellAlignment, Table, presets};

/// Prints a table whose first column says what the others measure.
pub(crate) fn print<const N: usize>(title: &str, header: [&str; N], rows: Vec<[String; N]>) {
    println!("\n{title}");
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header);
    for column in 1..N {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row(row);
    }
    println!("{table}");
}
