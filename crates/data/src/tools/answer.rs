//! The final answer in a worked solution, and whether two answers are the same string or number.

/// The final answer of a text: after the last `####`, in the last `\boxed{}`, after the last line that starts with `A:` or says
/// `answer is`, else the last number. `None` when there is none of these.
pub fn final_answer(text: &str) -> Option<&str> {
    find(text).map(|range| &text[range])
}

/// Where the final answer stands in the text, in bytes.
pub fn find(text: &str) -> Option<std::ops::Range<usize>> {
    let line_after = |at: usize| {
        let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
        trimmed(text, at..end)
    };
    let found = if let Some(at) = text.rfind("####") {
        line_after(at + 4)
    } else if let Some(at) = text.rfind("\\boxed{") {
        trimmed(text, braced(text, at + "\\boxed".len())?)
    } else if let Some(at) = text.rfind("\nA:") {
        line_after(at + 3)
    } else if let Some(at) = text.rfind("answer is") {
        let line = line_after(at + "answer is".len());
        numbers(&text[line.clone()]).last().map_or(line.clone(), |n| line.start + n.start..line.start + n.end)
    } else {
        numbers(text).last()?
    };
    (!found.is_empty()).then_some(found)
}

fn trimmed(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let inner = &text[range.clone()];
    let start = range.start + (inner.len() - inner.trim_start_matches(|c: char| c.is_whitespace() || c == ':').len());
    let end = range.end - (inner.len() - inner.trim_end_matches(|c: char| c.is_whitespace() || c == '.').len());
    start..end.max(start)
}

/// What stands inside the braces that open at byte `at`.
fn braced(text: &str, at: usize) -> Option<std::ops::Range<usize>> {
    let mut depth = 0;
    for (n, c) in text[at..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1..at + n);
        }
    }
    None
}

/// The numbers in a text: digits with commas and one point, a sign before them.
fn numbers(text: &str) -> impl Iterator<Item = std::ops::Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !bytes[at].is_ascii_digit() {
            at += 1;
        }
        if at == bytes.len() {
            return None;
        }
        let start = at - usize::from(at > 0 && bytes[at - 1] == b'-');
        let digit = |n: usize| bytes.get(n).is_some_and(u8::is_ascii_digit);
        while at < bytes.len() && (digit(at) || (matches!(bytes[at], b',' | b'.') && digit(at + 1))) {
            at += 1;
        }
        Some(start..at)
    })
}

/// The number that an answer is: commas, a currency sign, a percent sign and LaTeX's spacing aside.
pub fn number(answer: &str) -> Option<f64> {
    let kept: String = answer.chars().filter(|c| !matches!(c, ',' | '$' | '%' | '\\' | ' ' | '!')).collect();
    if let Some((top, bottom)) = kept.split_once('/') {
        let (top, bottom) = (top.parse::<f64>().ok()?, bottom.parse::<f64>().ok()?);
        return Some(top / bottom).filter(|n| n.is_finite());
    }
    kept.parse().ok().filter(|n: &f64| n.is_finite())
}

/// Whether two answers are equal as text, white space aside, or as numbers to one part in a million.
pub fn same_answer(a: &str, b: &str) -> bool {
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    if squeezed(a) == squeezed(b) {
        return true;
    }
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_answer_is_found_where_solutions_put_it() {
        let cases = [
            ("6*7=42\n#### 42\n", Some("42")),
            ("so \\boxed{\\frac{1}{2}}.", Some("\\frac{1}{2}")),
            ("Then 40+2.\nA: 42.", Some("42")),
            ("The answer is $1,200 for 3 days.", Some("3")),
            ("first 1, then -7.5.", Some("-7.5")),
            ("none", None),
            ("\\boxed{open", None),
        ];
        for (text, answer) in cases {
            assert_eq!(final_answer(text), answer, "{text}");
        }
    }

    #[test]
    fn answers_are_equal_as_numbers_and_as_text() {
        for (a, b) in [("1,200", "$1200"), ("0.5", "1/2"), ("x + 1", "x+1"), ("42", "42.0")] {
            assert!(same_answer(a, b), "{a} {b}");
        }
        for (a, b) in [("41", "42"), ("x", "y"), ("1/0", "2/0"), ("", "0")] {
            assert!(!same_answer(a, b), "{a} {b}");
        }
    }
}
