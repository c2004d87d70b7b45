//! What goes to stdout: lines, JSON objects, aligned tables.

use crate::failure::Failure;
use serde_json::Value;
use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line; a closed pipe ends the command quietly.
pub fn line(text: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(|e| Failure::stdout(&e))
}

/// Prints a JSON object on a line of its own.
pub fn json(object: &Value) -> Result<(), Failure> {
    line(object)
}

/// Which side of its column a cell stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Prints rows in columns that are as wide as their widest cell, two blanks apart.
pub fn table(sides: &[Side], rows: &[Vec<String>]) -> Result<(), Failure> {
    layout(sides, rows).iter().try_for_each(line)
}

fn layout(sides: &[Side], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..sides.len()).map(width).collect();
    let cell = |((text, width), side): ((&String, &usize), &Side)| match side {
        Side::Left => format!("{text:<width$}"),
        Side::Right => format!("{text:>width$}"),
    };
    let row = |row: &Vec<String>| row.iter().zip(&widths).zip(sides).map(cell).collect::<Vec<_>>().join("  ");
    rows.iter().map(|cells| row(cells).trim_end().to_owned()).collect()
}

/// A metric as people read it: six significant digits, whole numbers without a fraction.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == value.trunc() && magnitude < 1e15 {
        format!("{value:.0}")
    } else if (1e-3..1e6).contains(&magnitude) {
        let digits = 5 - magnitude.log10().floor().max(-1.0) as i32;
        format!("{value:.*}", digits.clamp(0, 6) as usize)
    } else {
        format!("{value:.4e}")
    }
}

/// A path as a word of a shell.
pub fn word(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:,=@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["run", "loss"], ["a", "0.5"], ["größer", "12.25"]].map(|row| row.map(str::to_owned).to_vec());
        let lines = layout(&[Side::Left, Side::Right], &rows);
        assert_eq!(lines, ["run      loss", "a         0.5", "größer  12.25"]);
    }

    #[test]
    fn numbers_keep_six_digits() {
        let shown = [0.0, 12.0, 0.5123456789, -1234.56789, 5e-7, 0.01234567, f64::NAN].map(number);
        assert_eq!(shown, ["0", "12", "0.512346", "-1234.57", "5.0000e-7", "0.012346", "NaN"]);
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(word("runs/a-1.0".as_ref()), "runs/a-1.0");
        assert_eq!(word("it's here".as_ref()), r"'it'\''s here'");
    }
}
