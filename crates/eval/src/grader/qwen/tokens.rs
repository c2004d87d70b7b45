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

/// The tokens of `text`; `None` where it is too long.
pub(super) fn lex(text: &str) -> Option<Vec<Tok>> {
    const IGNORED: [&str; 22] = [
        "thinspace",
        "medspace",
        "thickspace",
        "quad",
        "qquad",
        "negthinspace",
        "negmedspace",
        "negthickspace",
        "left",
        "right",
        "vrule",
        "vcenter",
        "vbox",
        "vskip",
        "vspace",
        "hfil",
        ",",
        ":",
        ";",
        "!",
        "(",
        "=",
    ];
    const SYMS: [(&str, &str); 21] = [
        ("+", "+"),
        ("-", "-"),
        ("*", "*"),
        ("/", "/"),
        ("(", "("),
        (")", ")"),
        ("{", "{"),
        ("}", "}"),
        ("[", "["),
        ("]", "]"),
        ("|", "|"),
        ("_", "_"),
        ("^", "^"),
        (":", ":"),
        ("<", "<"),
        (">", ">"),
        ("!", "!"),
        (",", ","),
        (".", "."),
        ("=", "="),
        ("&=", "="),
    ];
    let mut out = Vec::new();
    let mut rest = text.trim();
    while let Some(c) = rest.chars().next() {
        if out.len() > MAX_TOKENS {
            return None;
        }
        if matches!(c, ' ' | '\t' | '\r' | '\n') {
            rest = &rest[1..];
        } else if let Some(after) = rest.strip_prefix('\\') {
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let length = if letters > 0 { letters } else { after.chars().next().map_or(0, char::len_utf8) };
            let name = &after[..length];
            rest = &after[length..];
            match name {
                "{" => out.push(Tok::Sym("\\{")),
                "}" => out.push(Tok::Sym("\\}")),
                _ if IGNORED.contains(&name) || matches!(name, "*" | "-" | "." | "/" | "\"") => {}
                _ if letters > 0 => out.push(Tok::Symbol(name.to_owned())),
                _ => out.push(Tok::Bad),
            }
        } else if let Some((tok, after)) = differential(rest) {
            out.push(tok);
            rest = after;
        } else if c.is_ascii_alphanumeric() {
            out.push(if c.is_ascii_digit() { Tok::Digit(c) } else { Tok::Letter(c) });
            rest = &rest[1..];
        } else if c == '\'' {
            let count = rest.bytes().take_while(|byte| *byte == b'\'').count();
            out.push(Tok::Quotes(count));
            rest = &rest[count..];
        } else if let Some((written, sym)) = SYMS.iter().find(|(written, _)| rest.starts_with(written)) {
            out.push(Tok::Sym(sym));
            rest = &rest[written.len()..];
            if *sym == "=" {
                rest = rest.strip_prefix('&').unwrap_or(rest);
            }
        } else {
            out.push(Tok::Bad);
            rest = &rest[c.len_utf8()..];
        }
    }
    Some(out)
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
