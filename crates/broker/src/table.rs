//! Rows in columns, for people.

use crate::report::printable;

/// Longest cell, in characters. What is longer is told whole with `--json`.
const MAX_CELL: usize = 120;

fn cell(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// Lays `rows` out under `titles`, two spaces between columns, nothing behind the last. Cells are escaped and cut.
pub(crate) fn columns<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let escaped: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|text| cell(text))).collect();
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
    fn an_enormous_cell_is_cut_and_harms_nobody() {
        let text = columns(["A", "B"], &[["a".repeat(100_000), "b".to_owned()]]);
        assert!(text.len() < 1000 && text.contains('…') && text.ends_with("b\n"), "{}", text.len());
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A".to_owned(), "x\ny".to_owned()], ["LONGER".to_owned(), String::new()]];
        assert_eq!(columns(["NAME", "WHAT"], &rows), "NAME    WHAT\nA       x\\ny\nLONGER\n");
    }
}
