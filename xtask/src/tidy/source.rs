//! A Rust file as the rules read it: tokens without comments and literals, and which lines are tests.

use std::path::{Path, PathBuf};

/// An identifier, a number, or one character of punctuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// 1-based.
    pub(super) line: usize,
    /// Whether the previous token ends where this one starts.
    pub(super) joined: bool,
}

pub(super) struct Source<'a> {
    /// Relative to the repository.
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) tokens: Vec<Token<'a>>,
    /// The whole file is a test.
    pub(super) is_test: bool,
    /// Inclusive ranges of lines under `#[cfg(test)]`.
    test_lines: Vec<(usize, usize)>,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        let tokens = tokens(text);
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        let test_lines = test_items(&tokens).map(|(start, end)| (tokens[start].line, tokens[end].line)).collect();
        Source { path, text, tokens, is_test, test_lines }
    }

    pub(super) fn is_test_line(&self, line: usize) -> bool {
        self.is_test || self.test_lines.iter().any(|&(start, end)| (start..=end).contains(&line))
    }

    /// The crate a file belongs to: the folder under `crates/`, or the first folder.
    pub(super) fn room(&self) -> &str {
        let mut parts = self.path.iter().map(|part| part.to_str().unwrap_or(""));
        match parts.next() {
            Some("crates") => parts.next().unwrap_or(""),
            first => first.unwrap_or(""),
        }
    }

    /// Indices of the tokens at which `pattern` starts.
    pub(super) fn find(&self, pattern: &[&str]) -> impl Iterator<Item = usize> {
        let matches = move |window: &&[Token]| window.iter().zip(pattern).all(|(token, text)| token.text == *text);
        self.tokens.windows(pattern.len()).enumerate().filter(move |(_, window)| matches(window)).map(|(i, _)| i)
    }

    /// Paths, without extension, of the modules this file declares as `#[cfg(test)] mod name;`.
    pub(super) fn test_modules(&self) -> Vec<PathBuf> {
        let stem = self.path.file_stem().unwrap_or_default();
        let is_root = ["lib", "main", "mod"].iter().any(|root| stem == *root);
        let folder =
            if is_root { self.path.parent().unwrap_or(Path::new("")).into() } else { self.path.with_extension("") };
        let declared = test_items(&self.tokens).filter_map(|(start, end)| match &self.tokens[start..=end] {
            [.., Token { text: "mod", .. }, name, Token { text: ";", .. }] => Some(folder.join(name.text)),
            _ => None,
        });
        declared.collect()
    }
}

/// First and last token of every item under `#[cfg(test)]`.
fn test_items<'t>(tokens: &'t [Token]) -> impl Iterator<Item = (usize, usize)> + 't {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    (0..tokens.len()).filter_map(move |start| {
        let rest = &tokens[start..];
        let is_test =
            rest.len() > ATTRIBUTE.len() && rest.iter().zip(ATTRIBUTE).all(|(token, text)| token.text == text);
        is_test.then(|| (start, item_end(tokens, start + ATTRIBUTE.len())))
    })
}

/// The token that ends the item or statement starting at `start`: its `;`, or the `}` of its first block.
pub(super) fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0i32;
    for (i, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth <= 0 {
                    return i;
                }
            }
            ";" if depth == 0 => return i,
            _ => {}
        }
    }
    tokens.len() - 1
}

/// Splits Rust text into tokens; comments, strings and characters are dropped, lifetimes keep their name.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let (mut tokens, mut i, mut line, mut previous_end) = (Vec::new(), 0, 1, usize::MAX);
    while i < bytes.len() {
        let skipped = comment(&bytes[i..]).or_else(|| literal(&bytes[i..])).unwrap_or(0);
        if skipped > 0 {
            line += bytes[i..i + skipped].iter().filter(|&&byte| byte == b'\n').count();
            i += skipped;
            continue;
        }
        let start = i;
        i += 1;
        match bytes[start] {
            b'\n' => line += 1,
            byte if byte.is_ascii_whitespace() => {}
            byte if is_word(byte) => {
                while i < bytes.len() && is_word(bytes[i]) {
                    i += 1;
                }
                tokens.push(Token { text: &text[start..i], line, joined: previous_end == start });
                previous_end = i;
            }
            _ => {
                tokens.push(Token { text: &text[start..i], line, joined: previous_end == start });
                previous_end = i;
            }
        }
    }
    tokens
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Length of the comment that starts here; block comments nest.
fn comment(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"//") {
        return Some(bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len()));
    }
    if !bytes.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut i) = (0, 0);
    while i < bytes.len() {
        let step = match bytes[i..] {
            [b'/', b'*', ..] => 1,
            [b'*', b'/', ..] => -1,
            _ => 0,
        };
        depth += step;
        i += if step == 0 { 1 } else { 2 };
        if depth == 0 {
            return Some(i);
        }
    }
    Some(bytes.len())
}

/// Length of the string, byte string, raw string or character that starts here.
///
/// A raw string is met at its prefix; the caller is between tokens, so no longer identifier ends in that letter.
fn literal(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.iter().take_while(|byte| matches!(byte, b'b' | b'c' | b'r')).count();
    let rest = &bytes[prefix.min(2)..];
    let hashes = rest.iter().take_while(|&&byte| byte == b'#').count();
    if prefix > 0 && bytes[..prefix.min(2)].contains(&b'r') && rest.get(hashes) == Some(&b'"') {
        let closing: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        let body = hashes + 1;
        let end = rest[body..].windows(closing.len()).position(|window| window == closing);
        return Some(end.map_or(bytes.len(), |end| prefix.min(2) + body + end + closing.len()));
    }
    let prefix = usize::from(matches!(bytes, [b'b' | b'c', b'"', ..] | [b'b', b'\'', ..]));
    match bytes[prefix..] {
        [b'"', ..] => Some(prefix + quoted(&bytes[prefix..])),
        [b'\'', b'\\', ..] => Some(prefix + quoted(&bytes[prefix..])),
        [b'\'', first, ..] => {
            // `'x'` is a character and `'x` a lifetime: only the closing quote tells.
            let width = [0x80, 0xE0, 0xF0].iter().filter(|&&lead| first >= lead).count() + 1;
            (bytes.get(prefix + 1 + width) == Some(&b'\'')).then_some(prefix + width + 2)
        }
        _ => None,
    }
}

/// Length of a literal with escapes, from its opening quote to its closing one.
fn quoted(bytes: &[u8]) -> usize {
    let mut i = 1;
    while i < bytes.len() && bytes[i] != bytes[0] {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    (i + 1).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        tokens(text).iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_hide_what_they_hold() {
        assert_eq!(words("a // unsafe\nb"), ["a", "b"]);
        assert_eq!(words("a /* x /* unsafe */ y */ b"), ["a", "b"]);
        assert_eq!(words(r#"a "unsafe \" { \\" b"#), ["a", "b"]);
        assert_eq!(words("a r#\"unsafe \" {\"# b br\"x\\\" c b\"y\" d"), ["a", "b", "c", "d"]);
        assert_eq!(words(r"a '{' '\'' 'é' '√' b'}' b"), ["a", "b"]);
    }

    #[test]
    fn lifetimes_raw_names_and_prefixes_of_names_are_no_literals() {
        assert_eq!(words("<'a, 'static>"), ["<", "'", "a", ",", "'", "static", ">"]);
        assert_eq!(words("r#type bar c r"), ["r", "#", "type", "bar", "c", "r"]);
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let text = "a\n\"x\ny\"\n/*\n*/ b";
        assert_eq!(tokens(text).iter().map(|token| token.line).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn only_items_under_cfg_test_are_tests() {
        let text = "fn a() {}\n#[cfg(test)]\nfn b() {\n    [0; 2];\n}\nfn c() {}\n#[cfg(test)]\nmod tests {\n}\n";
        let source = Source::new(Path::new("crates/x/src/lib.rs"), text);
        let lines: Vec<usize> = (1..=9).filter(|&line| source.is_test_line(line)).collect();
        assert_eq!(lines, [2, 3, 4, 5, 7, 8, 9]);
        assert_eq!(source.room(), "x");
    }

    #[test]
    fn a_declared_test_module_names_its_file() {
        let text = "#[cfg(test)]\nmod golden;\nmod other;";
        let of = |path: &str| Source::new(Path::new(path), text).test_modules();
        assert_eq!(of("crates/x/src/lib.rs"), [Path::new("crates/x/src/golden")]);
        assert_eq!(of("crates/x/src/norm.rs"), [Path::new("crates/x/src/norm/golden")]);
    }
}
