//! Tokens of sympy's LaTeX grammar.

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    Digit(char),
    Letter(char),
    /// A command without its backslash.
    Symbol(String),
    /// `d` and the name after it.
    Differential(String),
    Quotes(usize),
    /// An operator or bracket; `\{` is `"\\{"`.
    Sym(&'static str),
    /// A character that is no token.
    Bad,
}

/// Longer texts are not read.
const MAX_TOKENS: usize = 1500;

/// Commands that the grammar skips, with and without letters.
const SKIPPED: &str = " thinspace medspace thickspace quad qquad negthinspace negmedspace negthickspace left right vrule \
                       vcenter vbox vskip vspace hfil , : ; ! ( = * - . / \" ";

const SYMS: [&str; 20] =
    ["+", "-", "*", "/", "(", ")", "{", "}", "[", "]", "|", "_", "^", ":", "<", ">", "!", ",", ".", "="];

/// The tokens of `text`; `None` where it is too long.
pub(super) fn lex(text: &str) -> Option<Vec<Tok>> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (tok, length) = token(rest);
        out.extend(tok);
        rest = &rest[length..];
        if out.len() > MAX_TOKENS {
            return None;
        }
    }
    Some(out)
}

/// The token that `rest` begins with, or nothing for space, and its length in bytes.
fn token(rest: &str) -> (Option<Tok>, usize) {
    if let Some(after) = rest.strip_prefix('\\') {
        return command(after);
    }
    if let Some((tok, after)) = differential(rest) {
        return (Some(tok), rest.len() - after.len());
    }
    let c = rest.chars().next().unwrap_or(' ');
    match c {
        ' ' | '\t' | '\r' | '\n' => (None, 1),
        '0'..='9' => (Some(Tok::Digit(c)), 1),
        'a'..='z' | 'A'..='Z' => (Some(Tok::Letter(c)), 1),
        '\'' => {
            let count = rest.bytes().take_while(|byte| *byte == b'\'').count();
            (Some(Tok::Quotes(count)), count)
        }
        // The alignment of an equation belongs to its sign.
        '=' if rest[1..].starts_with('&') => (Some(Tok::Sym("=")), 2),
        '&' if rest[1..].starts_with('=') => (Some(Tok::Sym("=")), 2),
        _ => match SYMS.iter().find(|sym| rest.starts_with(**sym)) {
            Some(sym) => (Some(Tok::Sym(sym)), 1),
            None => (Some(Tok::Bad), c.len_utf8()),
        },
    }
}

/// The token of what follows a backslash, which counts in the length.
fn command(after: &str) -> (Option<Tok>, usize) {
    let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
    let length = if letters > 0 { letters } else { after.chars().next().map_or(0, char::len_utf8) };
    let name = &after[..length];
    let is_skipped = || SKIPPED.split(' ').any(|skipped| skipped == name);
    let tok = match name {
        "{" => Some(Tok::Sym("\\{")),
        "}" => Some(Tok::Sym("\\}")),
        "" | " " => Some(Tok::Bad),
        _ if is_skipped() => None,
        _ if letters > 0 => Some(Tok::Symbol(name.to_owned())),
        _ => Some(Tok::Bad),
    };
    (tok, 1 + length)
}

/// `dx`, `d x` or `d\theta`.
fn differential(text: &str) -> Option<(Tok, &str)> {
    let after = text.strip_prefix('d')?.trim_start_matches([' ', '\t', '\r', '\n']);
    let (name, command) = match after.strip_prefix('\\') {
        Some(name) => (name, true),
        None => (after, false),
    };
    let letters = name.bytes().take_while(u8::is_ascii_alphabetic).count();
    let length = if command { letters } else { letters.min(1) };
    (length > 0).then(|| (Tok::Differential(name[..length].to_owned()), &name[length..]))
}
