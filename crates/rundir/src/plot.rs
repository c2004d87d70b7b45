//! Line plots of a run's log, as SVG and PNG: panels of named series, two to a row.
//!
//! A panel is laid out once, as a scene of lines and texts, which `svg` and `png` each draw in their own way.
mod axis;
mod png;
mod scene;
mod svg;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::disk::Disk;
use crate::error::{At, Error};
use crate::log::Record;
use axis::Axis;
use scene::{Anchor, Mark, Scene};

/// A named line. A `y` that is not finite, or not positive on a logarithmic axis, is a gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points in the order they are joined.
    pub points: Vec<(f64, f64)>,
}

/// One pair of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Title above the axes.
    pub title: String,
    /// What `x` counts.
    pub x_label: String,
    /// What `y` measures, with its unit if it has one.
    pub y_label: String,
    /// Whether `y` is logarithmic.
    pub log_y: bool,
    /// Lines, each in its own colour.
    pub series: Vec<Series>,
}

/// Writes `<stem>.svg` and `<stem>.png`; the folder is made when missing.
///
/// Errors: the disk fails.
pub fn write(panels: &[Panel], stem: &Path) -> Result<[PathBuf; 2], Error> {
    let paths = [stem.with_extension("svg"), stem.with_extension("png")];
    if let Some(folder) = stem.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).at("create folder", folder)?;
    }
    Disk::default().replace(&paths[0], to_svg(panels).as_bytes()).at("write", &paths[0])?;
    Disk::default().replace(&paths[1], &to_png(panels)).at("write", &paths[1])?;
    Ok(paths)
}

/// The panels as an SVG document.
pub fn to_svg(panels: &[Panel]) -> String {
    svg::draw(&lay_out(panels))
}

/// The panels as a PNG image, two pixels to the SVG's unit.
pub fn to_png(panels: &[Panel]) -> Vec<u8> {
    png::draw(&lay_out(panels))
}

/// The panels of a training log, in TRL's metric names: loss, KL, rewards, log-probabilities, accuracy, gradient norm,
/// learning rate. A panel without a single value is left out. A metric that a record of its kind (training or
/// evaluation) lacks, as `rewards/chosen` in a step without desirable rows, is a gap.
pub fn panels_of_log(records: &[Record]) -> Vec<Panel> {
    let panels = PANELS.iter().map(|&(title, y_label, metrics)| {
        let both = metrics.iter().flat_map(|metric| [(*metric).to_owned(), format!("eval_{metric}")]);
        let series = both.map(|name| Series { points: points(records, &name), name });
        let series: Vec<_> = series.filter(|s| s.points.iter().any(|(_, y)| y.is_finite())).collect();
        Panel { title: title.into(), x_label: "step".into(), y_label: y_label.into(), log_y: false, series }
    });
    panels.filter(|panel| !panel.series.is_empty()).collect()
}

type PanelOfLog = (&'static str, &'static str, &'static [&'static str]);

const PANELS: [PanelOfLog; 7] = [
    ("Loss", "loss", &["loss"]),
    ("KL of policy and reference", "nats per sequence", &["kl", "kl_raw"]),
    ("Rewards", "beta * log-ratio", &["rewards/chosen", "rewards/rejected", "rewards/margins"]),
    ("Log-probabilities", "nats per sequence", &["logps/chosen", "logps/rejected"]),
    ("Fractions", "fraction", &["mean_token_accuracy", "frac_r_positive"]),
    ("Gradient norm", "norm before clipping", &["grad_norm"]),
    ("Learning rate", "rate", &["learning_rate"]),
];

/// Steps and values of a metric in the records of its kind, training or evaluation; not a number where one lacks it.
pub(crate) fn points(records: &[Record], metric: &str) -> Vec<(f64, f64)> {
    let is_eval = |key: &str| key.starts_with("eval_");
    let of_its_kind = |record: &&Record| match is_eval(metric) {
        true => record.keys().any(|key| is_eval(key)),
        false => record.contains_key("loss"),
    };
    let number = |record: &Record, key: &str| record.get(key).and_then(Value::as_f64);
    let point = |record: &Record| Some((number(record, "step")?, number(record, metric).unwrap_or(f64::NAN)));
    records.iter().filter(of_its_kind).filter_map(point).collect()
}

// Lengths in scene units.
const PANEL: (f32, f32) = (440.0, 264.0);
const MARGIN_LEFT: f32 = 62.0;
const MARGIN_RIGHT: f32 = 16.0;
const MARGIN_TOP: f32 = 42.0;
const MARGIN_BOTTOM: f32 = 38.0;
const HAIR: f32 = 0.5;

const INK: u32 = 0x24292F;
const SOFT_INK: u32 = 0x57606A;
const GRID: u32 = 0xE4E7EB;
const FRAME: u32 = 0xA0A7B0;
/// Told apart by colour-blind readers too (after Okabe and Ito, darkened for a white ground).
const COLOURS: [u32; 6] = [0x0068B5, 0xD9580D, 0x00835E, 0xB5478B, 0x8A6D00, 0x3C8FC4];

fn lay_out(panels: &[Panel]) -> Scene {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns).max(1);
    let mut scene = Scene::new(PANEL.0 * columns as f32, PANEL.1 * rows as f32);
    for (index, panel) in panels.iter().enumerate() {
        let corner = ((index % columns) as f32 * PANEL.0, (index / columns) as f32 * PANEL.1);
        lay_out_panel(&mut scene, panel, corner);
    }
    scene
}

fn lay_out_panel(scene: &mut Scene, panel: &Panel, (left, top): (f32, f32)) {
    let (x0, x1) = (left + MARGIN_LEFT, left + PANEL.0 - MARGIN_RIGHT);
    let names = legend(panel, x1 - x0);
    let names_height = names.iter().map(|name| name.at.1).fold(0.0, f32::max);
    let (y0, y1) = (top + PANEL.1 - MARGIN_BOTTOM, top + MARGIN_TOP + names_height);
    let visible = |&&(x, y): &&(f64, f64)| x.is_finite() && y.is_finite() && (!panel.log_y || y > 0.0);
    let all = || panel.series.iter().flat_map(|series| &series.points).filter(visible);
    let x_axis = Axis::counting(all().map(|point| point.0), (x0, x1));
    let y_axis = Axis::measuring(all().map(|point| point.1), (y0, y1), panel.log_y);

    for tick in y_axis.ticks() {
        scene.push(Mark::Rect { x: x0, y: tick.at, w: x1 - x0, h: HAIR, colour: GRID });
        scene.text((x0 - 5.0, tick.at + 3.0), Anchor::End, SOFT_INK, &tick.label);
    }
    for tick in x_axis.ticks() {
        scene.push(Mark::Rect { x: tick.at, y: y1, w: HAIR, h: y0 - y1 + 3.0, colour: GRID });
        scene.text((tick.at, y0 + 13.0), Anchor::Middle, SOFT_INK, &tick.label);
    }
    scene.push(Mark::Rect { x: x0, y: y0, w: x1 - x0, h: HAIR, colour: FRAME });
    scene.push(Mark::Rect { x: x0, y: y1, w: HAIR, h: y0 - y1, colour: FRAME });
    let middle = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
    scene.text((middle.0, y0 + 28.0), Anchor::Middle, SOFT_INK, &panel.x_label);
    let unit = if panel.log_y { format!("{} (log)", panel.y_label) } else { panel.y_label.clone() };
    scene.vertical_text((left + 14.0, middle.1), SOFT_INK, &unit);
    scene.bold_text((x0, top + 16.0), INK, &panel.title);
    if all().next().is_none() {
        return scene.text(middle, Anchor::Middle, SOFT_INK, "no data");
    }
    for Name { at: (x, y), text, colour } in names {
        let (x, y) = (x0 + x, top + MARGIN_TOP - 9.0 + y);
        scene.push(Mark::Line { points: vec![(x, y - 3.0), (x + 12.0, y - 3.0)], width: 2.0, colour });
        scene.text((x + 16.0, y), Anchor::Start, INK, text);
    }
    for (series, colour) in panel.series.iter().zip(COLOURS.iter().cycle()) {
        for run in runs(series, panel.log_y) {
            let run: Vec<_> = run.iter().map(|&(x, y)| (x_axis.place(x), y_axis.place(y))).collect();
            draw_run(scene, thin_out(run), *colour);
        }
    }
}

/// The stretches between gaps.
fn runs(series: &Series, log_y: bool) -> impl Iterator<Item = &[(f64, f64)]> {
    let gap = move |&(x, y): &(f64, f64)| !x.is_finite() || !y.is_finite() || (log_y && y <= 0.0);
    series.points.split(gap).filter(|run| !run.is_empty())
}

/// A line, with dots where the points are few enough to be told apart.
fn draw_run(scene: &mut Scene, run: Vec<(f32, f32)>, colour: u32) {
    if run.len() <= 16 {
        scene.marks.extend(run.iter().map(|&centre| Mark::Dot { centre, radius: 1.8, colour }));
    }
    if run.len() > 1 {
        scene.push(Mark::Line { points: run, width: 1.2, colour });
    }
}

/// Keeps the first, lowest, highest and last point of every half unit of `x`: more cannot be seen.
fn thin_out(run: Vec<(f32, f32)>) -> Vec<(f32, f32)> {
    let column = |point: &(f32, f32)| (point.0 * 2.0) as i64;
    let mut kept = Vec::new();
    for group in run.chunk_by(|a, b| column(a) == column(b)) {
        let by_height = |a: &usize, b: &usize| group[*a].1.total_cmp(&group[*b].1);
        let lowest = (0..group.len()).min_by(by_height).expect("a group has points");
        let highest = (0..group.len()).max_by(by_height).expect("a group has points");
        let mut chosen = [0, lowest.min(highest), lowest.max(highest), group.len() - 1].to_vec();
        chosen.dedup();
        kept.extend(chosen.into_iter().map(|index| group[index]));
    }
    kept
}

/// A line's colour and name, at an offset from the legend's first.
struct Name<'a> {
    at: (f32, f32),
    text: &'a str,
    colour: u32,
}

/// The names in rows no wider than `width`; a single line needs none, the title says what it is.
fn legend(panel: &Panel, width: f32) -> Vec<Name<'_>> {
    if panel.series.len() < 2 {
        return Vec::new();
    }
    let (mut x, mut y) = (0.0, 0.0);
    let name = |(series, colour): (&'_ Series, &u32)| {
        let needed = 16.0 + scene::text_width(&series.name);
        if x > 0.0 && x + needed > width {
            (x, y) = (0.0, y + 12.0);
        }
        let at = (x, y);
        x += needed + 14.0;
        (at, *colour)
    };
    let places: Vec<_> = panel.series.iter().zip(COLOURS.iter().cycle()).map(name).collect();
    let named = panel.series.iter().zip(places);
    named.map(|(series, (at, colour))| Name { at, text: &series.name, colour }).collect()
}

#[cfg(test)]
mod tests;
