//! What goes to stdout: lines, JSON objects, aligned tables.

use crate::failure::Failure;
use serde_json::Value;
use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line; a closed pipe ends the command quietly.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(|e| Failure::stdout(&e))
}

/// Prints a JSON object on a line of its own.
pub(crate) fn json(object: &Value) -> Result<(), Failure> {
    line(object)
}

/// Which side of its column a cell stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Prints rows in columns that are as wide as their widest cell, two blanks apart.
pub(crate) fn table(sides: &[Side], rows: &[Vec<String>]) -> Result<(), Failure> {
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

/// A metric as people read it: six significant digits, no zeros at the end.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() || (1e-3..1e6).contains(&magnitude) {
        let digits = if value == 0.0 { 0 } else { 5 - magnitude.log10().floor() as i32 };
        return trimmed(&format!("{value:.*}", digits.clamp(0, 8) as usize)).to_owned();
    }
    let text = format!("{value:.5e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{exponent}", trimmed(mantissa))
}

/// Without zeros at the end of a fraction.
fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A path as a word of a shell.
pub(crate) fn word(path: &std::path::Path) -> String {
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
        let shown = [0.0, 12.0, 0.5123456789, -1234.56789, 5e-7, 0.001, 3000000.0, f64::NAN].map(number);
        assert_eq!(shown, ["0", "12", "0.512346", "-1234.57", "5e-7", "0.001", "3e6", "NaN"]);
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(word("runs/a-1.0".as_ref()), "runs/a-1.0");
        assert_eq!(word("it's here".as_ref()), r"'it'\''s here'");
    }
}
