//! A drawing as a list of marks, in units of two PNG pixels; the origin is top left.

/// Height of a text's letters with their line, and width of each letter, in scene units: those of the PNG's font.
pub(super) const FONT_SIZE: f32 = 8.75;
pub(super) const LETTER: f32 = 5.5;

pub(super) struct Scene {
    pub(super) width: f32,
    pub(super) height: f32,
    pub(super) marks: Vec<Mark>,
}

pub(super) enum Mark {
    Rect { x: f32, y: f32, w: f32, h: f32, colour: u32 },
    Line { points: Vec<(f32, f32)>, width: f32, colour: u32 },
    Dot { centre: (f32, f32), radius: f32, colour: u32 },
    Text(Text),
}

/// One line of text; `at` is the anchor's point on the baseline.
pub(super) struct Text {
    pub(super) at: (f32, f32),
    pub(super) anchor: Anchor,
    pub(super) colour: u32,
    pub(super) bold: bool,
    /// Read from below to above.
    pub(super) vertical: bool,
    pub(super) text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Scene {
    pub(super) fn new(width: f32, height: f32) -> Scene {
        Scene { width, height, marks: Vec::new() }
    }

    pub(super) fn push(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    pub(super) fn text(&mut self, at: (f32, f32), anchor: Anchor, colour: u32, text: &str) {
        self.push(Mark::Text(Text { at, anchor, colour, bold: false, vertical: false, text: text.to_owned() }));
    }

    pub(super) fn bold_text(&mut self, at: (f32, f32), colour: u32, text: &str) {
        let anchor = Anchor::Start;
        self.push(Mark::Text(Text { at, anchor, colour, bold: true, vertical: false, text: text.to_owned() }));
    }

    pub(super) fn vertical_text(&mut self, at: (f32, f32), colour: u32, text: &str) {
        let anchor = Anchor::Middle;
        self.push(Mark::Text(Text { at, anchor, colour, bold: false, vertical: true, text: text.to_owned() }));
    }
}

pub(super) fn text_width(text: &str) -> f32 {
    LETTER * text.chars().count() as f32
}
