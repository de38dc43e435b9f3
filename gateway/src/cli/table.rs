//! Columns for people: as wide as their widest cell.

use std::io::{self, Write};

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// The rows as text, each behind `indent`; no spaces at the ends of lines.
pub fn render<const N: usize>(indent: &str, align: [Align; N], rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::from(indent);
        for ((cell, width), align) in row.iter().zip(widths).zip(align) {
            let pad = " ".repeat(width - cell.chars().count());
            match align {
                Align::Left => line.extend([cell, pad.as_str(), "  "]),
                Align::Right => line.extend([pad.as_str(), cell, "  "]),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Writes to standard output. A reader that has left (`| head`) is not an error.
///
/// # Errors
/// When the output cannot be written.
pub fn print(text: &str) -> Result<(), String> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["CLUSTER", "READY"], ["überalpha", "10"], ["b", "7"]].map(|row| row.map(str::to_owned));
        let text = render("> ", [Align::Left, Align::Right], &rows);
        assert_eq!(text, "> CLUSTER    READY\n> überalpha     10\n> b              7\n");
    }
}
