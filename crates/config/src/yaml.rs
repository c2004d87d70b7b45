//! YAML text to nodes that know their places; no tags, no anchors, one document, bounded size.

use crate::problem::{Code, Errors, Place, Problem, Source};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Largest text read, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting read.
const MAX_DEPTH: usize = 16;
/// Most nodes read.
const MAX_NODES: usize = 50_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// `plain`: written without quotes, so `null`, `true` and numbers may be meant.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Pair>),
}

#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// `null`, `~`, or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value in a few words, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.content {
            Content::Scalar { .. } if self.is_null() => "nothing".into(),
            Content::Scalar { text, plain: true } => format!("`{}`", clip(text)),
            Content::Scalar { text, plain: false } => format!("the text \"{}\"", clip(text)),
            Content::List(items) => format!("a list of {}", items.len()),
            Content::Map(pairs) => format!("a mapping of {} keys", pairs.len()),
        }
    }

    /// The value on one line as it could be written again.
    pub(crate) fn flow(&self) -> String {
        match &self.content {
            Content::Scalar { text, .. } => text.replace('\n', " "),
            Content::List(items) => format!("[{}]", items.iter().map(Node::flow).collect::<Vec<_>>().join(", ")),
            Content::Map(pairs) => {
                let inner: Vec<String> = pairs.iter().map(|p| format!("{}: {}", p.key, p.value.flow())).collect();
                format!("{{{}}}", inner.join(", "))
            }
        }
    }
}

fn clip(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    if line.chars().count() > 60 { format!("{}...", line.chars().take(60).collect::<String>()) } else { line.into() }
}

/// Reads one YAML (or JSON) document. `None` for a text without any node.
///
/// Errors: [`Code::Syntax`] for text that is no YAML, [`Code::Budget`] for what is too large or of no use here,
/// [`Code::Shape`] for a key that is no plain text, [`Code::Duplicate`] for a key written twice (both places).
pub(crate) fn parse(source: &Source, text: &str) -> Result<Option<Node>, Errors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        let whole = Place::whole(source.clone());
        return Err(Errors::from(
            Problem::new(Code::Budget, &whole, format!("{} bytes are no configuration", text.len()))
                .help(format!("at most {MAX_BYTES} bytes are read")),
        ));
    }
    let lines: Vec<&str> = text.split('\n').map(|line| line.trim_end_matches('\r')).collect();
    let mut builder = Builder { source, lines, open: Vec::new(), root: None, nodes: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|e| {
            let place = builder.point(e.marker().line(), e.marker().col());
            Problem::new(Code::Syntax, &place, format!("this is not YAML: {}", e.info())).help(SYNTAX_HELP)
        })?;
        builder.event(event, span)?;
    }
    Ok(builder.root)
}

const SYNTAX_HELP: &str = "one `key: value` per line, a blank after the colon, no tabs before a key";

/// A list or mapping whose end has not come yet.
struct Open {
    place: Place,
    items: Vec<Node>,
    pairs: Vec<Pair>,
    key: Option<(String, Place)>,
    is_map: bool,
}

struct Builder<'a> {
    source: &'a Source,
    lines: Vec<&'a str>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Errors> {
        let place = self.place(&span);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err(Errors::from(
                Problem::new(Code::Budget, &place, "a second YAML document begins here")
                    .help("one file is one run: remove the `---` and what follows"),
            )),
            Event::Alias(_) => Err(useless(&place, "aliases").into()),
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    return Err(useless(&place, if tag.is_some() { "tags" } else { "anchors" }).into());
                }
                let place = if style == ScalarStyle::Plain { place } else { self.quoted(place, style) };
                self.node(Node {
                    place,
                    content: Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain },
                })
            }
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) if anchor != 0 || tag.is_some() => {
                Err(useless(&place, if tag.is_some() { "tags" } else { "anchors" }).into())
            }
            Event::SequenceStart(..) => self.begin(place, false),
            Event::MappingStart(..) => self.begin(place, true),
            Event::SequenceEnd | Event::MappingEnd => {
                let mut done = self.open.pop().expect("the parser balances starts and ends");
                if place.line == done.place.line && place.column > done.place.column {
                    done.place.length = place.column + place.length - done.place.column;
                }
                let content = if done.is_map { Content::Map(done.pairs) } else { Content::List(done.items) };
                self.node(Node { place: done.place, content })
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, place: Place, is_map: bool) -> Result<(), Errors> {
        if self.open.len() == MAX_DEPTH {
            return Err(Errors::from(Problem::new(Code::Budget, &place, format!("nested more than {MAX_DEPTH} deep"))));
        }
        self.open.push(Open { place, items: Vec::new(), pairs: Vec::new(), key: None, is_map });
        Ok(())
    }

    fn node(&mut self, node: Node) -> Result<(), Errors> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Errors::from(Problem::new(Code::Budget, &node.place, format!("more than {MAX_NODES} values"))));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        if !parent.is_map {
            parent.items.push(node);
            return Ok(());
        }
        if let Some((key, key_place)) = parent.key.take() {
            parent.pairs.push(Pair { key, key_place, value: node });
            return Ok(());
        }
        let Content::Scalar { text, .. } = node.content else {
            return Err(Errors::from(Problem::new(Code::Shape, &node.place, "a key must be plain text")));
        };
        if let Some(first) = parent.pairs.iter().find(|pair| pair.key == text) {
            return Err(Errors::from(
                Problem::new(Code::Duplicate, &node.place, format!("`{text}` is written twice"))
                    .label("again here")
                    .and(&first.key_place, "first here")
                    .help("keep one of the two"),
            ));
        }
        parent.key = Some((text, node.place));
        Ok(())
    }

    fn line(&self, line: usize) -> &str {
        self.lines.get(line.wrapping_sub(1)).copied().unwrap_or("")
    }

    fn point(&self, line: usize, col: usize) -> Place {
        let text = self.line(line).to_string();
        Place { source: self.source.clone(), line, column: col + 1, length: 1, text }
    }

    /// The first line of a span; an empty span underlines one character.
    fn place(&self, span: &Span) -> Place {
        let mut place = self.point(span.start.line(), span.start.col());
        let end =
            if span.end.line() == span.start.line() { span.end.col() } else { place.text.trim_end().chars().count() };
        place.length = end.saturating_sub(span.start.col()).max(1);
        place
    }

    /// The parser's span of a quoted scalar runs on to the next token: cut it behind the closing quote.
    fn quoted(&self, mut place: Place, style: ScalarStyle) -> Place {
        let quote = match style {
            ScalarStyle::SingleQuoted => '\'',
            ScalarStyle::DoubleQuoted => '"',
            _ => return place,
        };
        let shown: Vec<char> = place.text.chars().skip(place.column - 1).take(place.length).collect();
        if let Some(last) = shown.iter().rposition(|&c| c == quote) {
            place.length = last + 1;
        }
        place
    }
}

fn useless(place: &Place, what: &str) -> Problem {
    Problem::new(Code::Budget, place, format!("YAML {what} are not read here")).help("write the value itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Node>, Errors> {
        parse(&Source::File("t.yaml".into()), text)
    }

    #[test]
    fn keys_and_values_know_their_columns() {
        let node = read("a: 1e-4\r\nb: \"q\"  # c\n").unwrap().unwrap();
        let Content::Map(pairs) = node.content else { panic!("a mapping") };
        assert_eq!((pairs[0].value.place.line, pairs[0].value.place.column, pairs[0].value.place.length), (1, 4, 4));
        assert_eq!(pairs[0].value.place.text, "a: 1e-4");
        assert_eq!((pairs[1].value.place.column, pairs[1].value.place.length), (4, 3));
    }

    #[test]
    fn hostile_texts_are_refused_without_panicking() {
        for (text, code) in [
            ("[".repeat(100_000).as_str(), Code::Syntax),
            ("[".repeat(20).as_str(), Code::Budget),
            ("a: &x 1\nb: *x\n", Code::Budget),
            ("a: !!python/object:os.system ls\n", Code::Budget),
            ("a: 1\n---\nb: 2\n", Code::Budget),
            ("? [a]\n: b\n", Code::Shape),
            ("a: 'b\n", Code::Syntax),
            ("a: b: c\n", Code::Syntax),
            ("a: 1\nb: 2\na: 3\n", Code::Duplicate),
            (&"x".repeat(MAX_BYTES + 1), Code::Budget),
        ] {
            assert_eq!(read(text).unwrap_err().problems[0].code, code, "{}", &text[..text.len().min(40)]);
        }
        for text in ["", "# only a comment\n", "---\n", "\u{feff}", "\0", "a: \u{1}"] {
            let _ = read(text);
        }
        assert!(read("").unwrap().is_none());
    }
}
