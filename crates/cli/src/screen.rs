//! What is said on stderr: lines, notes, errors; coloured where that is wanted.

use crate::args::When;
use clap::builder::styling::{AnsiColor, Style};
use config::{Errors, Style as PieceStyle};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Stderr, and how to write to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    quiet: bool,
    color: bool,
    terminal: bool,
    /// Whether what goes to stdout is coloured.
    color_out: bool,
}

const DIM: Style = Style::new().dimmed();
const RED: Style = AnsiColor::Red.on_default().bold();

impl Screen {
    /// Looks at stderr, stdout and NO_COLOR.
    pub(crate) fn new(quiet: bool, color: When) -> Screen {
        let terminal = io::stderr().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color_on = |terminal: bool| match color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !refused,
        };
        Screen { quiet, color: color_on(terminal), terminal, color_out: color_on(io::stdout().is_terminal()) }
    }

    /// The same, saying nothing but errors: what rank 0 says is said once.
    pub(crate) fn quieted(self) -> Screen {
        Screen { quiet: true, ..self }
    }

    /// Whether bars can be drawn.
    pub(crate) fn draws(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// A line. A stderr that is gone is no reason to stop.
    pub(crate) fn line(&self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Something worth saying once.
    pub(crate) fn note(&self, text: impl Display) {
        self.line(format_args!("{} {text}", self.paint(DIM, "note:")));
    }

    /// Why the process ends.
    pub(crate) fn error(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{} {text}", self.paint(RED, "error:"));
    }

    /// What is wrong with a configuration, each problem with its line.
    pub(crate) fn problems(&self, errors: &Errors) {
        let pieces = |problem: &config::Problem| -> String {
            problem.pieces().iter().map(|piece| self.paint(style_of(piece.style), &piece.text)).collect()
        };
        let shown: Vec<String> = errors.problems.iter().map(pieces).collect();
        let _ = write!(io::stderr(), "{}", shown.join("\n"));
    }

    /// Whether results on stdout are coloured.
    pub(crate) fn colors_results(&self) -> bool {
        self.color_out
    }

    /// A piece of a result on stdout.
    pub(crate) fn result(&self, style: Style, text: &str) -> String {
        if self.color_out { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

fn style_of(piece: PieceStyle) -> Style {
    match piece {
        PieceStyle::Error => RED,
        PieceStyle::Message => Style::new().bold(),
        PieceStyle::Gutter => AnsiColor::Blue.on_default(),
        PieceStyle::Place => Style::new(),
        PieceStyle::Source => Style::new(),
        PieceStyle::Caret => AnsiColor::Red.on_default(),
        PieceStyle::Help => AnsiColor::Cyan.on_default(),
    }
}
