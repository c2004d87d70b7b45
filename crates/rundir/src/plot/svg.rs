//! A scene as an SVG document.
use std::fmt::Write;

use super::scene::{Anchor, FONT_SIZE, Mark, Scene, Text};

/// Displayed larger than its units: text of 8.75 units then has about the size of a page's text.
const DISPLAY: f32 = 1.4;

pub(super) fn draw(scene: &Scene) -> String {
    let (w, h) = (scene.width, scene.height);
    let (shown_w, shown_h) = (w * DISPLAY, h * DISPLAY);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{shown_w}\" height=\"{shown_h}\" viewBox=\"0 0 {w} {h}\" \
         font-family=\"Noto Sans Mono, DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"{FONT_SIZE}\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n"
    );
    scene.marks.iter().for_each(|mark| draw_mark(&mut out, mark));
    out.push_str("</svg>\n");
    out
}

fn draw_mark(out: &mut String, mark: &Mark) {
    let _ = match mark {
        Mark::Rect { x, y, w, h, colour } => {
            writeln!(out, "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"#{colour:06x}\"/>")
        }
        Mark::Dot { centre: (x, y), radius, colour } => {
            writeln!(out, "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"#{colour:06x}\"/>")
        }
        Mark::Line { points, width, colour } => {
            let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
            writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"#{colour:06x}\" stroke-width=\"{width}\" \
                 stroke-linejoin=\"round\" stroke-linecap=\"round\"/>",
                points.join(" ")
            )
        }
        Mark::Text(text) => draw_text(out, text),
    };
}

fn draw_text(out: &mut String, text: &Text) -> std::fmt::Result {
    let (x, y) = text.at;
    let anchor = match text.anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let weight = if text.bold { " font-weight=\"bold\"" } else { "" };
    let turn = if text.vertical { format!(" transform=\"rotate(-90 {x:.2} {y:.2})\"") } else { String::new() };
    writeln!(
        out,
        "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\" fill=\"#{:06x}\"{weight}{turn}>{}</text>",
        text.colour,
        escaped(&text.text)
    )
}

fn escaped(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
