//! Medians, ratios and tables.

/// The middle value, or the mean of the two in the middle; not a number when there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// `a / b`, round by round: each pair was measured one right after the other, so what slows the machine slows both.
pub(crate) fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}

/// A number with three significant digits and no exponent.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    if value.abs() < 5e-7 {
        return "0".to_owned();
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    format!("{value:.*}", digits.clamp(0, 6) as usize)
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0} %", 100.0 * share) } else { "-".to_owned() }
}

/// Bytes in GB of 2^30.
pub(crate) fn gigabytes(bytes: f64) -> String {
    if bytes.is_finite() { format!("{:.2} GB", bytes / f64::from(1 << 30)) } else { "-".to_owned() }
}

/// A Markdown table whose columns line up: the first to the left, the others to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |c: usize| {
        let cells = rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
        cells.max(head[c].chars().count()).max(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cell = |(c, text): (usize, &str)| match c {
            0 => format!("{text:<0$}", widths[c]),
            _ => format!("{text:>0$}", widths[c]),
        };
        format!("| {} |\n", cells.enumerate().map(cell).collect::<Vec<_>>().join(" | "))
    };
    let mut out = line(&mut head.iter().copied());
    let rule = |(c, w): (usize, &usize)| if c == 0 { "-".repeat(*w) } else { format!("{}:", "-".repeat(w - 1)) };
    out += &format!("| {} |\n", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join(" | "));
    rows.iter().for_each(|row| out += &line(&mut row.iter().map(String::as_str)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn ratios_go_round_by_round() {
        assert_eq!(ratios(&[2.0, 9.0], &[1.0, 3.0]), [2.0, 3.0]);
        // Not the ratio of the medians, which another round's noise would enter.
        assert_eq!(median(ratios(&[2.0, 8.0, 4.0], &[1.0, 2.0, 4.0])), 2.0);
        assert_eq!(ratios(&[2.0, 9.0], &[1.0]), [2.0]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [2e-8, 1234.5, 12.345, 0.123_45, 0.000_123_45].map(short),
            ["0", "1234", "12.3", "0.123", "0.000123"]
        );
        assert_eq!((short(f64::NAN), percent(0.754), percent(f64::NAN)), ("-".into(), "75 %".into(), "-".into()));
        assert_eq!(gigabytes(1.5 * f64::from(1 << 30)), "1.50 GB");
    }

    #[test]
    fn tables_line_up() {
        let rows = [["a", "1.5"], ["longer", "10"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(
            table(&["name", "s"], &rows),
            "\
| name   |   s |
| ------ | --: |
| a      | 1.5 |
| longer |  10 |
"
        );
    }
}
