//! Rows in columns, for people.

use crate::report::printable;

/// Lays `rows` out under `titles`, two spaces between columns, nothing behind the last. Cells are escaped.
pub(crate) fn columns<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let escaped: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| printable(cell).into_owned())).collect();
    let mut widths = titles.map(|title| title.chars().count());
    for row in &escaped {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(titles.map(str::to_owned)).chain(escaped) {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A".to_owned(), "x\ny".to_owned()], ["LONGER".to_owned(), String::new()]];
        assert_eq!(columns(["NAME", "WHAT"], &rows), "NAME    WHAT\nA       x\\ny\nLONGER\n");
    }
}
