//! Tokens of an answer in LaTeX or plain text.

use crate::grader::math::expr::Rational;
use dashu_int::{IBig, UBig};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    /// A number as written: digits, and what it is worth.
    Num(String, Rational),
    /// A variable's letter.
    Letter(char),
    /// A LaTeX command, or a plain word with the same meaning, without its backslash.
    Cmd(String),
    /// Text: the content of `\text{}` and its like, or a plain word that is no product of variables.
    Word(String),
    /// Any other character; `\{` and `\}` are commands `{` and `}`.
    Sym(char),
}

/// A token with whether space stands before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) tok: Tok,
    pub(super) spaced: bool,
}

/// Answers longer than this are compared as texts only.
const MAX_TOKENS: usize = 1500;

const TEXT_COMMANDS: [&str; 17] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "textsf",
    "texttt",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mbox",
    "hbox",
    "operatorname",
    "emph",
    "boldsymbol",
    "bm",
];
const SKIPPED: [&str; 20] = [
    "left",
    "right",
    "mleft",
    "mright",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "displaystyle",
    "textstyle",
    "limits",
    "nolimits",
    "boxed",
    "rm",
    "bf",
    "it",
];
/// Plain words that mean the command of the same name.
const FUNCTIONS: [&str; 26] = [
    "sin", "cos", "tan", "csc", "sec", "cot", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh",
    "arccosh", "arctanh", "ln", "log", "lg", "exp", "sqrt", "pi", "gcd", "lcm", "max", "min", "infty",
];

/// The tokens of `text`; `None` where it is too long or a group is not closed.
pub(super) fn lex(text: &str) -> Option<Vec<Token>> {
    let mut lexer = Lexer { text, at: 0, depth: 0, spaced: false, out: Vec::new() };
    lexer.run()?;
    Some(lexer.out)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// How many brackets are open: within them a comma separates.
    depth: usize,
    spaced: bool,
    out: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, tok: Tok) {
        self.out.push(Token { tok, spaced: std::mem::take(&mut self.spaced) });
    }

    fn command(&mut self, name: &str) {
        self.push(Tok::Cmd(name.to_owned()));
    }

    fn run(&mut self) -> Option<()> {
        while let Some(c) = self.rest().chars().next() {
            if self.out.len() > MAX_TOKENS {
                return None;
            }
            match c {
                '\\' => self.backslash()?,
                '$' | '~' => {
                    self.at += 1;
                    self.spaced = true;
                }
                _ if c.is_whitespace() => {
                    self.at += c.len_utf8();
                    self.spaced = true;
                }
                '0'..='9' => self.number()?,
                '.' if self.rest()[1..].starts_with(|next: char| next.is_ascii_digit()) => self.number()?,
                'a'..='z' | 'A'..='Z' => self.word(),
                // A full stop.
                '.' if !self.rest()[1..].starts_with(char::is_alphanumeric) => {
                    self.at += 1;
                    self.spaced = true;
                }
                _ => {
                    self.at += c.len_utf8();
                    self.symbol(c);
                }
            }
        }
        Some(())
    }

    fn symbol(&mut self, c: char) {
        match c {
            '(' | '[' => self.depth += 1,
            ')' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        let command = match c {
            '°' => "degree",
            'π' => "pi",
            '√' => "sqrt",
            '×' => "times",
            '·' | '⋅' => "cdot",
            '÷' => "div",
            '≤' => "le",
            '≥' => "ge",
            '≠' => "ne",
            '∞' => "infty",
            '∪' => "cup",
            '∩' => "cap",
            '∈' => "in",
            '∅' => "emptyset",
            'ℝ' => "mathbb R",
            '±' => "pm",
            '−' | '–' => return self.push(Tok::Sym('-')),
            '²' | '³' => {
                self.push(Tok::Sym('^'));
                let digit = if c == '²' { 2u8 } else { 3 };
                return self.push(Tok::Num(digit.to_string(), Rational::from(digit)));
            }
            _ if c.is_alphabetic() => return self.push(Tok::Letter(c)),
            _ => return self.push(Tok::Sym(c)),
        };
        self.command(command);
    }

    fn backslash(&mut self) -> Option<()> {
        self.at += 1;
        let rest = self.rest();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        if letters == 0 {
            let c = rest.chars().next()?;
            self.at += c.len_utf8();
            match c {
                ',' | ';' | ':' | ' ' => self.spaced = true,
                '!' | '(' | ')' | '[' | ']' => {}
                '{' | '}' => {
                    self.depth = if c == '{' { self.depth + 1 } else { self.depth.saturating_sub(1) };
                    self.command(if c == '{' { "{" } else { "}" });
                }
                '%' => self.push(Tok::Sym('%')),
                '|' => self.command("|"),
                _ => self.command(&c.to_string()),
            }
            return Some(());
        }
        let name = &rest[..letters];
        self.at += letters;
        match name {
            "quad" | "qquad" | "thinspace" => self.spaced = true,
            _ if SKIPPED.contains(&name) => {
                if name == "left" || name == "right" {
                    self.at += usize::from(self.rest().starts_with('.'));
                }
            }
            "mathbb" | "mathcal" => {
                let set = self.group()?;
                self.command(&format!("mathbb {set}"));
            }
            "R" | "Reals" => self.command("mathbb R"),
            "begin" | "end" => {
                let kind = self.group()?;
                self.depth = if name == "begin" { self.depth + 1 } else { self.depth.saturating_sub(1) };
                if name == "begin" && kind == "array" {
                    self.group()?;
                }
                self.command(&format!("{name} {kind}"));
            }
            _ if TEXT_COMMANDS.contains(&name) => {
                let content = self.group()?;
                self.text(&content, name == "operatorname")?;
            }
            _ => self.command(name),
        }
        Some(())
    }

    /// The content of the group in braces that follows, or the one character.
    fn group(&mut self) -> Option<String> {
        while self.rest().starts_with(char::is_whitespace) {
            self.at += self.rest().chars().next()?.len_utf8();
        }
        let rest = self.rest();
        let Some(inside) = rest.strip_prefix('{') else {
            let c = rest.chars().next().filter(|c| *c != '\\')?;
            self.at += c.len_utf8();
            return Some(c.to_string());
        };
        let mut depth = 1;
        for (at, byte) in inside.bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.at += at + 2;
                return Some(inside[..at].to_owned());
            }
        }
        None
    }

    /// Text in a command: mathematics if it holds no letter, else a word.
    fn text(&mut self, content: &str, is_operator: bool) -> Option<()> {
        let word = content.replace(['~', '{', '}'], " ").replace("\\ ", " ");
        let word = word.trim().trim_end_matches([',', '.']).trim();
        if word.is_empty() {
            self.spaced = true;
        } else if is_operator || FUNCTIONS.contains(&word) {
            self.command(word);
        } else if word.chars().any(char::is_alphabetic) {
            self.push(Tok::Word(word.to_owned()));
        } else {
            let inner = lex(word)?;
            self.out.extend(inner);
        }
        Some(())
    }

    /// A run of letters: a function's name, a known word, or letters one by one.
    fn word(&mut self) {
        let length = self.rest().bytes().take_while(u8::is_ascii_alphabetic).count();
        let run = &self.rest()[..length];
        self.at += length;
        match run {
            "or" | "and" => self.push(Tok::Word(run.to_owned())),
            "inf" | "infinity" | "Infinity" => self.command("infty"),
            _ if FUNCTIONS.contains(&run) => self.command(run),
            _ if length > 1 && super::units::is_unit(run) => self.push(Tok::Word(run.to_owned())),
            _ => run.chars().for_each(|c| self.push(Tok::Letter(c))),
        }
    }

    fn digits(&mut self) -> &'a str {
        let length = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let digits = &self.rest()[..length];
        self.at += length;
        digits
    }

    /// A number: thousands separators, decimals, a period under a bar, an exponent.
    fn number(&mut self) -> Option<()> {
        let mut whole = self.digits().to_owned();
        let mut grouped = false;
        while (grouped || whole.len() <= 3) && whole != "0" {
            let Some(skip) = self.thousands() else { break };
            self.at += skip;
            whole.push_str(self.digits());
            grouped = true;
        }
        let mut fraction = String::new();
        let mut repeated = String::new();
        let after_dot = self.rest().strip_prefix('.');
        let is_bar = |rest: &str| rest.starts_with("\\overline{") || rest.starts_with("\\dot{");
        if after_dot.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) || is_bar(rest)) {
            self.at += 1;
            fraction = self.digits().to_owned();
            if is_bar(self.rest()) {
                self.at += self.rest().find('{')?;
                repeated = self.group()?;
                if repeated.is_empty() || !repeated.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
            }
        }
        let mut written = whole.clone();
        if !fraction.is_empty() {
            written.push('.');
            written.push_str(&fraction);
        }
        let exponent = self.exponent();
        let value = decimal(&whole, &fraction, &repeated, exponent)?;
        self.push(Tok::Num(written, value));
        Some(())
    }

    /// How many bytes of thousands separator stand here before exactly three digits. A bare comma within brackets is none.
    fn thousands(&self) -> Option<usize> {
        let rest = self.rest();
        let negative_space = |rest: &'a str| rest.strip_prefix(',')?.trim_start().strip_prefix("\\!");
        let separator = if rest.starts_with("{,}") {
            3
        } else if let Some(after) = negative_space(rest) {
            rest.len() - after.trim_start().len()
        } else if rest.starts_with("\\,") {
            2
        } else if rest.starts_with(',') && self.depth == 0 {
            1
        } else {
            return None;
        };
        let digits = rest[separator..].bytes().take_while(u8::is_ascii_digit).count();
        (digits == 3).then_some(separator)
    }

    /// The exponent of `1.5e-3`, if the number has one.
    fn exponent(&mut self) -> i32 {
        let Some(rest) = self.rest().strip_prefix(['e', 'E']) else { return 0 };
        let digits = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        if count == 0 || count > 4 || digits[count..].starts_with(|c: char| c.is_ascii_alphabetic()) {
            return 0;
        }
        let Ok(value) = rest[..rest.len() - digits.len() + count].parse() else { return 0 };
        self.at += 1 + rest.len() - digits.len() + count;
        value
    }
}

/// The value of a decimal number whose digits `repeated` go on for ever.
fn decimal(whole: &str, fraction: &str, repeated: &str, exponent: i32) -> Option<Rational> {
    let integer = |digits: &str| -> Option<UBig> {
        if digits.is_empty() { Some(UBig::ZERO) } else { UBig::from_str_radix(digits, 10).ok() }
    };
    if whole.len() + fraction.len() + repeated.len() > 1200 {
        return None;
    }
    let ten = UBig::from(10u8);
    let mut scale = ten.pow(fraction.len());
    let mut top = integer(&format!("{whole}{fraction}"))?;
    if !repeated.is_empty() {
        let nines = ten.pow(repeated.len()) - UBig::ONE;
        top = top * &nines + integer(repeated)?;
        scale *= nines;
    }
    let shift = ten.pow(exponent.unsigned_abs() as usize);
    if exponent >= 0 {
        top *= shift;
    } else {
        scale *= shift;
    }
    Some(Rational::from_parts(IBig::from(top), scale))
}
