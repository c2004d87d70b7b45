//! What is wrong with a configuration and where: places, codes, and their plain-text rendering.

use std::fmt;

/// Where a configuration text came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, by the path the user gave.
    File(String),
    /// The n-th `key=value` of the command line, counted from 1.
    Override(usize),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => f.write_str(path),
            Source::Override(n) => write!(f, "command line, override {n}"),
        }
    }
}

/// One stretch of one line of a source. `line` 0 means the source as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file or override.
    pub source: Source,
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// Characters to underline, at least 1.
    pub length: usize,
    /// The whole line as written, without its line break.
    pub text: String,
}

impl Place {
    /// The source as a whole, for what is absent from it.
    pub fn whole(source: Source) -> Place {
        Place { source, line: 0, column: 0, length: 0, text: String::new() }
    }
}

impl fmt::Display for Place {
    /// `run.yaml:14:3`, `run.yaml` or `command line, override 2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::File(_) if self.line > 0 => write!(f, "{}:{}:{}", self.source, self.line, self.column),
            _ => self.source.fmt(f),
        }
    }
}

/// The kind of a [`Problem`]; its number is stable and printed as `C0007`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// Not YAML.
    Syntax = 1,
    /// Too large, too deep, or a YAML feature that has no use here (tags, anchors, several documents).
    Budget = 2,
    /// The top level is no mapping of keys, or a key is no plain text.
    Shape = 3,
    /// One key written twice.
    Duplicate = 4,
    /// A command-line override without `=`.
    Override = 5,
    /// The file is another tool's.
    Dialect = 6,
    /// A key that no table knows.
    UnknownKey = 7,
    /// The value has the wrong type.
    WrongType = 8,
    /// The value has the right type and lies outside its range.
    OutOfRange = 9,
    /// The value is none of the names allowed.
    NotAChoice = 10,
    /// The key or value is known and is not offered.
    NotOffered = 11,
    /// Two spellings of one thing disagree.
    Disagree = 12,
    /// A key that is required is not there.
    Missing = 13,
    /// Each value is fine alone; together they are not.
    Conflict = 14,
    /// The key belongs to the other trainer.
    OtherTrainer = 15,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{:04}", *self as u16)
    }
}

/// One thing that is wrong: what, where, and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Its kind.
    pub code: Code,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub place: Place,
    /// Said beside the underline; may be empty.
    pub label: String,
    /// Other places concerned, each with what is said beside its underline.
    pub related: Vec<(Place, String)>,
    /// What to do, one line each.
    pub help: Vec<String>,
}

impl Problem {
    /// A problem at one place.
    pub fn new(code: Code, place: &Place, message: impl Into<String>) -> Problem {
        let (label, related, help) = (String::new(), Vec::new(), Vec::new());
        Problem { code, message: message.into(), place: place.clone(), label, related, help }
    }

    /// Adds what is said beside the underline.
    pub fn label(mut self, label: impl Into<String>) -> Problem {
        self.label = label.into();
        self
    }

    /// Adds another place that is concerned.
    pub fn and(mut self, place: &Place, label: impl Into<String>) -> Problem {
        self.related.push((place.clone(), label.into()));
        self
    }

    /// Adds a line on what to do.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help.push(help.into());
        self
    }

    /// The rendering in pieces, so that a terminal can colour them; [`fmt::Display`] joins the same pieces.
    pub fn pieces(&self) -> Vec<Piece> {
        let mut out = Rendering::default();
        out.push(Style::Error, format!("error[{}]", self.code));
        out.push(Style::Message, format!(": {}\n", self.message));
        let lines = std::iter::once(&self.place).chain(self.related.iter().map(|(place, _)| place));
        let width = lines.map(|place| place.line.to_string().len()).max().unwrap_or(1);
        out.snippet(&self.place, &self.label, width, "-->");
        for (place, label) in &self.related {
            out.snippet(place, label, width, ":::");
        }
        for help in &self.help {
            out.push(Style::Gutter, format!("{:width$} = ", ""));
            out.push(Style::Help, format!("help: {help}\n"));
        }
        out.pieces
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().iter().try_for_each(|piece| f.write_str(&piece.text))
    }
}

/// What a [`Piece`] of a rendered problem is, for colouring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `error[C0007]`
    Error,
    /// The sentence after it.
    Message,
    /// Arrows, line numbers, bars.
    Gutter,
    /// `run.yaml:14:3`
    Place,
    /// The source line.
    Source,
    /// The underline and what is said beside it.
    Caret,
    /// What to do.
    Help,
}

/// A stretch of rendered text of one style; line breaks are inside the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub style: Style,
    /// The text.
    pub text: String,
}

/// Source lines longer than this are cut around the underline, in characters.
const LINE_SHOWN: usize = 120;

#[derive(Default)]
struct Rendering {
    pieces: Vec<Piece>,
}

impl Rendering {
    fn push(&mut self, style: Style, text: impl Into<String>) {
        self.pieces.push(Piece { style, text: text.into() });
    }

    /// Arrow and place, then the source line with its underline when there is one.
    fn snippet(&mut self, place: &Place, label: &str, width: usize, arrow: &str) {
        self.push(Style::Gutter, format!("{:width$}{arrow} ", ""));
        self.push(Style::Place, format!("{place}\n"));
        if place.line == 0 {
            if !label.is_empty() {
                self.push(Style::Gutter, format!("{:width$} | ", ""));
                self.push(Style::Caret, format!("{label}\n"));
            }
            return;
        }
        let (text, column) = window(&place.text, place.column);
        let number = if matches!(place.source, Source::File(_)) { place.line.to_string() } else { String::new() };
        self.push(Style::Gutter, format!("{number:>width$} | "));
        self.push(Style::Source, format!("{text}\n"));
        self.push(Style::Gutter, format!("{:width$} | ", ""));
        let room = text.chars().count().saturating_sub(column - 1).max(1);
        let carets = "^".repeat(place.length.clamp(1, room));
        let gap = if label.is_empty() { "" } else { " " };
        self.push(Style::Caret, format!("{:pad$}{carets}{gap}{label}\n", "", pad = column - 1));
    }
}

/// The part of a line that is shown, tabs as blanks, and the 1-based column of the underline in it.
fn window(line: &str, column: usize) -> (String, usize) {
    let chars: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let column = column.clamp(1, chars.len() + 1);
    if chars.len() <= LINE_SHOWN {
        return (chars.into_iter().collect(), column);
    }
    let start = (column - 1).saturating_sub(LINE_SHOWN / 3).min(chars.len() - LINE_SHOWN);
    (chars[start..start + LINE_SHOWN].iter().collect(), column - start)
}

/// Every problem of one configuration, in the order of their places.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    /// Never empty.
    pub problems: Vec<Problem>,
}

impl Errors {
    /// The process exit code for a configuration error.
    pub fn exit_code(&self) -> u8 {
        2
    }
}

impl From<Problem> for Errors {
    fn from(problem: Problem) -> Errors {
        Errors { problems: vec![problem] }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_around_its_underline() {
        let text = format!("{}KEY{}", "x".repeat(300), "y".repeat(300));
        let place = Place { source: Source::File("run.yaml".into()), line: 7, column: 301, length: 3, text };
        let shown = Problem::new(Code::UnknownKey, &place, "m").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        let at = lines[2].find("KEY").expect("the key is in the part that is shown");
        assert_eq!(lines[3].find("^^^"), Some(at));
        assert!(lines[2].chars().count() < 130);
    }

    #[test]
    fn an_override_is_shown_without_a_line_number() {
        let place =
            Place { source: Source::Override(2), line: 1, column: 1, length: 12, text: "learning_rat=1e-5".into() };
        let shown = Problem::new(Code::UnknownKey, &place, "unknown key").label("here").help("do this").to_string();
        assert_eq!(
            shown,
            "error[C0007]: unknown key\n --> command line, override 2\n  | learning_rat=1e-5\n  | ^^^^^^^^^^^^ here\n  = help: do this\n"
        );
    }
}
