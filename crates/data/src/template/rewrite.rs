//! Tags that are rewritten before the template engine reads them: two in which it differs from Jinja, and one that is bounded.

use super::{GENERATION_FILTER, ITERABLE, KEPT, KEPT_ATTRIBUTE};

/// Rewrites tags of three kinds; says whether there were generation blocks.
///
/// `{% generation %}` blocks become filter blocks. `{% for x in e %}` becomes `{% for x in __iterable(e) %}`, because
/// looping over `none` (a conversation without tools) is an error in Jinja and nothing here, and a template that
/// forgets to ask whether there are tools must not render a prompt that its model never saw. `{% set x = e %}` becomes
/// `{% set x = __kept((e)) %}`, which refuses what is nested past all reason.
/// Comments, expressions and string literals are stepped over, so that text that merely mentions a tag stays.
pub(super) fn rewrite_tags(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len() + 256);
    let mut generation = false;
    for (text, token) in pieces(source) {
        out.push_str(text);
        if let Some(tag) = generation_tag(token) {
            out.push_str(&tag);
            generation = true;
        } else {
            out.push_str(&for_tag(token).or_else(|| set_tag(token)).unwrap_or_else(|| token.to_owned()));
        }
    }
    (out, generation)
}

/// A source in pieces: text, and the tag, expression, comment or lone brace behind it; the last of these may be empty.
pub(super) fn pieces(source: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = source;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (text, tail) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
        let end = match tail.as_bytes().get(1) {
            Some(b'#') => tail.find("#}").map(|e| e + 2),
            Some(b'{') => closing(tail, "}}"),
            Some(b'%') => closing(tail, "%}"),
            _ => Some(1.min(tail.len())),
        };
        let (token, after) = tail.split_at(end.unwrap_or(tail.len()));
        rest = after;
        Some((text, token))
    })
}

/// A `{% set %}` tag whose value is looked at before it is kept; `None` for any other token.
fn set_tag(token: &str) -> Option<String> {
    let inner = token.strip_prefix("{%")?.strip_suffix("%}")?;
    let (_, body) = strip_control(inner, str::strip_prefix);
    if body.split_whitespace().next() != Some("set") {
        return None;
    }
    // Only names stand before the sign.
    let (target, value) = inner.split_once('=').filter(|(target, _)| !target.contains(['|', '\'', '"']))?;
    let (_, unclosed) = strip_control(value, str::strip_suffix);
    let guard = if target.contains('.') { KEPT_ATTRIBUTE } else { KEPT };
    Some(format!("{{%{target}= {guard}(({})) {}%}}", unclosed.trim(), &value[unclosed.len()..]))
}

/// A `{% for %}` tag whose iterated expression is guarded; `None` for any other token.
fn for_tag(token: &str) -> Option<String> {
    let inner = token.strip_prefix("{%")?.strip_suffix("%}")?;
    let (_, body) = strip_control(inner, str::strip_prefix);
    if body.split_whitespace().next() != Some("for") {
        return None;
    }
    let from = word_at_top_level(inner, 0, &["in"])? + "in".len();
    let (_, unclosed) = strip_control(inner, str::strip_suffix);
    let to = word_at_top_level(inner, from, &["if", "recursive"]).unwrap_or(unclosed.len());
    Some(format!("{{%{} {ITERABLE}({}) {}%}}", &inner[..from], inner[from..to].trim(), &inner[to..]))
}

/// Where one of `words` first stands as a word of its own at or after byte `from`, outside brackets and strings.
fn word_at_top_level(text: &str, from: usize, words: &[&str]) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80;
    let (mut i, mut depth, mut quote) = (from, 0_i32, None);
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, c @ (b'"' | b'\'')) => quote = Some(c),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth -= 1,
            (None, c) if is_word(c) => {
                let end = bytes[i..].iter().position(|&c| !is_word(c)).map_or(bytes.len(), |n| i + n);
                if depth == 0 && words.contains(&&text[i..end]) {
                    return Some(i);
                }
                i = end - 1;
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// End of the Jinja token that starts `text`: just past the first `close` outside string literals.
fn closing(text: &str, close: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut i, mut quote) = (2, None);
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(q), c) if c == q => quote = None,
            (None, c @ (b'"' | b'\'')) => quote = Some(c),
            (None, _) if bytes[i..].starts_with(close.as_bytes()) => return Some(i + close.len()),
            _ => {}
        }
        i += 1;
    }
    None
}

/// The replacement of a `{% generation %}` or `{% endgeneration %}` tag, white-space control kept.
fn generation_tag(token: &str) -> Option<String> {
    let inner = token.strip_prefix("{%")?.strip_suffix("%}")?;
    let (open, inner) = strip_control(inner, str::strip_prefix);
    let (close, inner) = strip_control(inner, str::strip_suffix);
    match inner.trim() {
        "generation" => Some(format!("{{%{open} filter {GENERATION_FILTER} {close}%}}")),
        "endgeneration" => Some(format!("{{%{open} endfilter {close}%}}")),
        _ => None,
    }
}

fn strip_control<'a>(
    inner: &'a str,
    strip: impl Fn(&'a str, &'static str) -> Option<&'a str>,
) -> (&'static str, &'a str) {
    ["-", "+"].into_iter().find_map(|c| strip(inner, c).map(|rest| (c, rest))).unwrap_or(("", inner))
}
