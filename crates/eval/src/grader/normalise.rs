//! Normalisation: one spelling of an answer, the harness's way (units out, LaTeX spellings unified, spaces out).

use super::words::number_words;
use regex::Regex;
use std::sync::LazyLock;

static ARRAY_BEGIN: LazyLock<Regex> = LazyLock::new(|| compiled(r"\\begin\{array\}\{.*?\}"));
static TEXT: LazyLock<Regex> = LazyLock::new(|| compiled(r"\\text\{(.*?)\}"));
static MBOX: LazyLock<Regex> = LazyLock::new(|| compiled(r"\\mbox\{.*?\}"));
static ZERO_DECIMALS: LazyLock<Regex> = LazyLock::new(|| compiled(r"(\d+)\.0*([^\d])"));
static ZERO_DECIMALS_END: LazyLock<Regex> = LazyLock::new(|| compiled(r"(\d+)\.0*$"));
static BARE_ROOT: LazyLock<Regex> = LazyLock::new(|| compiled(r"\\sqrt(\w+)"));

/// Words taken for units and removed, in the harness's order; each is tried again with an `s` after the whole list. A dot
/// stands for any character, as the harness uses them for patterns.
const UNITS: [&str; 132] = [
    "east",
    "degree",
    "mph",
    "kmph",
    "ft",
    "m sqaure",
    " m east",
    "sq m",
    "deg",
    "mile",
    "q .",
    "monkey",
    "prime",
    "ratio",
    "profit of rs",
    "rd",
    "o",
    "gm",
    "p . m",
    "lb",
    "tile",
    "per",
    "dm",
    "lt",
    "gain",
    "ab",
    "way",
    "west",
    "a .",
    "b .",
    "c .",
    "d .",
    "e .",
    "f .",
    "g .",
    "h .",
    "t",
    "a",
    "h",
    "no change",
    "men",
    "soldier",
    "pie",
    "bc",
    "excess",
    "st",
    "inches",
    "noon",
    "percent",
    "by",
    "gal",
    "kmh",
    "c",
    "acre",
    "rise",
    "a . m",
    "th",
    "π r 2",
    "sq",
    "mark",
    "l",
    "toy",
    "coin",
    "sq . m",
    "gallon",
    "° f",
    "profit",
    "minw",
    "yr",
    "women",
    "feet",
    "am",
    "pm",
    "hr",
    "cu cm",
    "square",
    "v â € ™",
    "are",
    "rupee",
    "rounds",
    "cubic",
    "cc",
    "mtr",
    "s",
    "ohm",
    "number",
    "kmph",
    "day",
    "hour",
    "minute",
    "min",
    "second",
    "man",
    "woman",
    "sec",
    "cube",
    "mt",
    "sq inch",
    "mp",
    "∏ cm ³",
    "hectare",
    "more",
    "sec",
    "unit",
    "cu . m",
    "cm 2",
    "rs .",
    "rs",
    "kg",
    "g",
    "month",
    "km",
    "m",
    "cm",
    "mm",
    "apple",
    "liter",
    "loss",
    "yard",
    "pure",
    "year",
    "increase",
    "decrease",
    "d",
    "less",
    "Surface",
    "litre",
    "pi sq m",
    "s .",
    "metre",
    "meter",
    "inch",
];

/// `text` in the harness's normal form. `skip_unit` keeps the unit words (a, m, cm, dollars ...): they eat variables of the
/// same name, so some benchmarks keep them.
pub fn normalise(text: &str, skip_unit: bool) -> String {
    let mut s = trim(text).replace('\n', "");
    s.truncate(s.trim_end_matches('.').len());
    s = s.replace("\\!", "");
    s = replace(&s, &ARRAY_BEGIN, r"\begin{pmatrix}");
    s = s.replace("\\end{array}", "\\end{pmatrix}");
    for (from, to) in [
        ("bmatrix", "pmatrix"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\neq", "\\ne"),
        ("\\leq", "\\le"),
        ("\\geq", "\\ge"),
        ("\\left", ""),
        ("\\right", ""),
        ("\\{", "{"),
        ("\\}", "}"),
    ] {
        s = s.replace(from, to);
    }
    if let Some(without) = without_trailing_text(&s) {
        s = without;
    }
    if !skip_unit {
        s = without_units(s);
    }
    for mark in ["^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)"] {
        s = s.replace(mark, "");
    }
    s = number_words(&s).unwrap_or(s);
    s = replace(&s, &TEXT, "${1}");
    for key in ["x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to"] {
        s = s.replace(key, "");
    }
    for (from, to) in [
        ("\\emptyset", "{}"),
        ("(-\\infty,\\infty)", "\\mathbb{R}"),
        ("\\%", ""),
        ("%", ""),
        (" .", " 0."),
        ("{.", "{0."),
        ("infinity", "\\infty"),
    ] {
        s = s.replace(from, to);
    }
    if !s.contains("\\infty") {
        s = s.replace("inf", "\\infty");
    }
    for (from, to) in [("+\\inity", "\\infty"), ("and", ""), ("\\mathbf", "")] {
        s = s.replace(from, to);
    }
    spelling(replace(&s, &MBOX, ""))
}

/// The last steps: the imaginary unit, decimals, a leading `k=`, roots, spaces, fractions.
fn spelling(mut s: String) -> String {
    if s.contains('j') && !s.contains('i') {
        s = s.replace('j', "i");
    }
    s = replace(&s, &ZERO_DECIMALS, "${1}${2}");
    s = replace(&s, &ZERO_DECIMALS_END, "${1}");
    if s.is_empty() {
        return s;
    }
    if s.starts_with('.') {
        s.insert(0, '0');
    }
    if let Some((left, right)) = s.split_once('=')
        && !right.contains('=')
        && left.chars().count() <= 2
    {
        s = right.to_owned();
    }
    s = replace(&s, &BARE_ROOT, r"\sqrt{${1}}");
    s = s.replace(' ', "");
    s = braced_fractions(&s).unwrap_or(s);
    slash_to_fraction(&s).unwrap_or(s)
}

/// Python's `str.strip()`: White_Space and the four ASCII separators.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

pub(super) fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns of the grader are fixed")
}

fn replace(text: &str, pattern: &Regex, by: &str) -> String {
    pattern.replace_all(text, by).into_owned()
}

/// `text` up to its first `\text{`, where it ends with a brace and something remains.
fn without_trailing_text(text: &str) -> Option<String> {
    let at = text.find("\\text{")?;
    let rest = &text[at + "\\text{".len()..];
    let left = trim(&text[..at]);
    (rest.ends_with('}') && !left.is_empty()).then(|| left.to_owned())
}

fn without_units(mut text: String) -> String {
    for _ in 0..2 {
        for plural in [false, true] {
            for unit in UNITS {
                if let Some(without) = without_unit(&text, unit, plural)
                    && !without.is_empty()
                {
                    text = without;
                }
            }
        }
    }
    text
}

/// `text` without every `unit` that has no word character beside it; `None` where there is none. A search from the left
/// over non-overlapping places, each taking one character on either side: as `re.sub(r"(^|\W)unit($|\W)", r"\1\2")`.
fn without_unit(text: &str, unit: &str, plural: bool) -> Option<String> {
    // Up to its first wildcard the unit is found as it stands.
    let literal = unit.split('.').next().unwrap_or(unit);
    let mut out: Option<String> = None;
    let (mut copied, mut free, mut at) = (0, 0, 0);
    while let Some(step) = text[at..].find(literal) {
        let begin = at + step;
        let before = text[free..begin].chars().next_back();
        let apart = begin == 0 || before.is_some_and(|c| !is_word(c));
        match unit_here(text, begin, unit, plural).filter(|_| apart) {
            Some((end, next)) => {
                let out = out.get_or_insert_with(String::new);
                out.push_str(&text[copied..begin]);
                (copied, free, at) = (end, next, next);
            }
            None => at = begin + text[begin..].chars().next().map_or(1, char::len_utf8),
        }
    }
    let mut out = out?;
    out.push_str(&text[copied..]);
    Some(out)
}

/// Whether `unit` stands at byte `at` and ends there: its end, and where the search goes on.
fn unit_here(text: &str, at: usize, unit: &str, plural: bool) -> Option<(usize, usize)> {
    let mut rest = text[at..].chars();
    let mut wanted = unit.chars().chain(plural.then_some('s'));
    wanted.all(|c| rest.next().is_some_and(|found| found == c || c == '.')).then_some(())?;
    let end = text.len() - rest.as_str().len();
    match rest.next() {
        None => Some((end, end)),
        Some(after) if !is_word(after) => Some((end, end + after.len_utf8())),
        Some(_) => None,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `\frac12` as `\frac{1}{2}`; `None` where an argument is missing.
fn braced_fractions(text: &str) -> Option<String> {
    let mut parts = text.split("\\frac");
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out.push_str("\\frac");
        if part.starts_with('{') {
            out.push_str(part);
            continue;
        }
        let mut chars = part.chars();
        let (a, b) = (chars.next()?, chars.next()?);
        out.push_str(&format!("{{{a}}}"));
        match b {
            '{' => out.push('{'),
            _ => out.push_str(&format!("{{{b}}}")),
        }
        out.push_str(chars.as_str());
    }
    Some(out)
}

/// `a/b` of two plain integers (or of anything with `sqrt` in it) as a `\frac`.
fn slash_to_fraction(text: &str) -> Option<String> {
    let (a, b) = text.split_once('/')?;
    let plain = |side: &str| side.contains("sqrt") || is_plain_integer(side);
    (!b.contains('/') && plain(a) && plain(b)).then(|| format!("\\frac{{{a}}}{{{b}}}"))
}

fn is_plain_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.as_bytes() {
        [] => false,
        [b'0'] => digits.len() == text.len(),
        [b'0', ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn spellings_are_unified() {
        let cases = [
            ("5 apples", "5"),
            ("a and b", "b"),
            ("10,000", "10,000"),
            ("50\\%", "50"),
            ("1/2", "\\frac{1}{2}"),
            ("\\dfrac12", "\\frac{1}{2}"),
            ("t", "t"),
            ("27.000", "27"),
            (".5", "0.5"),
            ("k=3", "3"),
            ("\\sqrt2", "\\sqrt{2}"),
            ("90^\\circ", "90"),
            ("\\text{twenty-one}", "twenty-one"),
            ("twenty-one", "21"),
            ("2\\begin{array}{cc}1\\end{array}", "2\\begin{pmatrix}1\\end{pmatrix}"),
            ("-3/04", "-3/04"),
        ];
        for (text, expected) in cases {
            assert_eq!(normalise(text, false), expected, "{text}");
        }
        assert_eq!(normalise("3 m", true), "3m");
        assert_eq!(normalise("3 m", false), "3");
    }
}
