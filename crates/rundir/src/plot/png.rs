//! A scene as a PNG image: lines smoothed by their distance to each pixel, letters from a built-in raster font.
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, compress_to_output, create_comp_flags_from_zip_params};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster};

use super::scene::{Anchor, Mark, Scene, Text};
use crate::crc;
use std::ops::Range;

/// Pixels to a scene unit.
const SCALE: f32 = 2.0;

/// Rows of pixels that are drawn together: a picture is made while a run's model fills the memory.
const BAND: usize = 64;

/// PNG, second edition, with one IDAT chunk and no row filters.
pub(super) fn draw(scene: &Scene) -> Vec<u8> {
    let (width, height) = ((scene.width * SCALE) as usize, (scene.height * SCALE) as usize);
    let mut header = Vec::from((width as u32).to_be_bytes());
    header.extend_from_slice(&(height as u32).to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]); // eight bits, RGB, deflate, no filter method, not interlaced
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"IDAT", &pixels(scene, width, height));
    chunk(&mut png, b"IEND", &[]);
    png
}

/// All rows, compressed (zlib).
fn pixels(scene: &Scene, width: usize, height: usize) -> Vec<u8> {
    let mut compressor = CompressorOxide::new(create_comp_flags_from_zip_params(6, 1, 0));
    let mut compressed = Vec::new();
    let mut compress = |bytes: &[u8], flush| {
        compress_to_output(&mut compressor, bytes, flush, |out| {
            compressed.extend_from_slice(out);
            true
        })
    };
    for first in (0..height).step_by(BAND) {
        let mut canvas = Canvas::new(width, first..height.min(first + BAND));
        canvas.scene(scene);
        for row in canvas.rgb.chunks_exact(3 * width) {
            compress(&[0], TDEFLFlush::None);
            compress(row, TDEFLFlush::None);
        }
    }
    compress(&[], TDEFLFlush::Finish);
    compressed
}

/// Some rows of the picture. Marks are given in its own coordinates, whatever rows they reach.
struct Canvas {
    width: usize,
    rows: Range<usize>,
    /// Three bytes to a pixel, row by row.
    rgb: Vec<u8>,
    /// How much of each pixel the present stroke covers, all zero between strokes.
    cover: Vec<f32>,
}

impl Canvas {
    fn new(width: usize, rows: Range<usize>) -> Canvas {
        let pixels = width * rows.len();
        Canvas { width, rows, rgb: vec![255; 3 * pixels], cover: vec![0.0; pixels] }
    }

    fn scene(&mut self, scene: &Scene) {
        for mark in &scene.marks {
            match mark {
                Mark::Rect { x, y, w, h, colour } => self.rect((*x, *y), (*w, *h), *colour),
                Mark::Line { points, width, colour } => self.stroke(points, *width, *colour),
                Mark::Dot { centre, radius, colour } => self.stroke(&[*centre, *centre], 2.0 * radius, *colour),
                Mark::Text(text) => self.text(text),
            }
        }
    }

    /// Where the pixel lies in the rows that are held.
    fn place(&self, x: usize, y: usize) -> usize {
        (y - self.rows.start) * self.width + x
    }

    fn blend(&mut self, x: usize, y: usize, colour: u32, share: f32) {
        if x < self.width && self.rows.contains(&y) {
            let place = self.place(x, y);
            let pixel = &mut self.rgb[3 * place..][..3];
            for (channel, &ink) in pixel.iter_mut().zip(&colour.to_be_bytes()[1..]) {
                *channel = (f32::from(*channel) * (1.0 - share) + f32::from(ink) * share).round() as u8;
            }
        }
    }

    fn rect(&mut self, (x, y): (f32, f32), (w, h): (f32, f32), colour: u32) {
        let pixel = |v: f32| (v * SCALE).round().max(0.0) as usize;
        for row in pixel(y).max(self.rows.start)..(pixel(y) + pixel(h).max(1)).min(self.rows.end) {
            for column in pixel(x)..pixel(x) + pixel(w).max(1) {
                self.blend(column, row, colour, 1.0);
            }
        }
    }

    /// Draws joined segments as one shape, so that where they overlap nothing is darker.
    fn stroke(&mut self, points: &[(f32, f32)], width: f32, colour: u32) {
        let reach = width * SCALE / 2.0 + 0.5;
        let mut touched = Box2 { x0: usize::MAX, y0: usize::MAX, x1: 0, y1: 0 };
        for pair in points.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|(x, y)| (x * SCALE, y * SCALE));
            let area = self.around(a, b, reach);
            for y in area.y0..area.y1 {
                for x in area.x0..area.x1 {
                    let cover = (reach - distance((x as f32 + 0.5, y as f32 + 0.5), a, b)).clamp(0.0, 1.0);
                    let place = self.place(x, y);
                    let held = &mut self.cover[place];
                    *held = held.max(cover);
                }
            }
            touched = touched.with(&area);
        }
        for y in touched.y0..touched.y1 {
            for x in touched.x0..touched.x1 {
                let place = self.place(x, y);
                let cover = std::mem::take(&mut self.cover[place]);
                if cover > 0.0 {
                    self.blend(x, y, colour, cover);
                }
            }
        }
    }

    /// The held pixels within `reach` of the segment's own rectangle.
    fn around(&self, a: (f32, f32), b: (f32, f32), reach: f32) -> Box2 {
        let from = |p: f32, q: f32, start: usize| ((p.min(q) - reach).floor().max(0.0) as usize).max(start);
        let to = |p: f32, q: f32, end: usize| ((p.max(q) + reach).ceil().max(0.0) as usize).min(end);
        Box2 {
            x0: from(a.0, b.0, 0),
            y0: from(a.1, b.1, self.rows.start),
            x1: to(a.0, b.0, self.width),
            y1: to(a.1, b.1, self.rows.end),
        }
    }

    fn text(&mut self, text: &Text) {
        let weight = if text.bold { FontWeight::Bold } else { FontWeight::Regular };
        let letters: Vec<_> = text.text.chars().map(|letter| glyph(letter, weight)).collect();
        let width = letters.iter().map(|letter| letter.width()).sum::<usize>() as i32;
        let before = match text.anchor {
            Anchor::Start => 0,
            Anchor::Middle => width / 2,
            Anchor::End => width,
        };
        let (origin_x, origin_y) = ((text.at.0 * SCALE).round() as i32, (text.at.1 * SCALE).round() as i32);
        let mut along = -before;
        for letter in letters {
            for (row, pixels) in letter.rows().enumerate() {
                for (column, &ink) in pixels.iter().enumerate().filter(|(_, ink)| **ink > 0) {
                    let (right, down) = (along + column as i32, row as i32 - baseline());
                    let (right, down) = if text.vertical { (down, -right) } else { (right, down) };
                    if let (Ok(x), Ok(y)) = (usize::try_from(origin_x + right), usize::try_from(origin_y + down)) {
                        self.blend(x, y, text.colour, f32::from(ink) / 255.0);
                    }
                }
            }
            along += letter.width() as i32;
        }
    }
}

struct Box2 {
    x0: usize,
    y0: usize,
    x1: usize,
    y1: usize,
}

impl Box2 {
    fn with(&self, other: &Box2) -> Box2 {
        Box2 {
            x0: self.x0.min(other.x0),
            y0: self.y0.min(other.y0),
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
        }
    }
}

/// Distance of `p` from the segment `a`-`b`.
fn distance(p: (f32, f32), a: (f32, f32), b: (f32, f32)) -> f32 {
    let (abx, aby, apx, apy) = (b.0 - a.0, b.1 - a.1, p.0 - a.0, p.1 - a.1);
    let length_squared = abx * abx + aby * aby;
    let along = if length_squared > 0.0 { ((apx * abx + apy * aby) / length_squared).clamp(0.0, 1.0) } else { 0.0 };
    (apx - along * abx).hypot(apy - along * aby)
}

fn glyph(letter: char, weight: FontWeight) -> RasterizedChar {
    let raster = |letter| get_raster(letter, weight, RasterHeight::Size24);
    raster(letter).or_else(|| raster('?')).expect("the font has a question mark")
}

/// Rows from the top of a letter's box to the line it stands on.
fn baseline() -> i32 {
    let standing = glyph('E', FontWeight::Regular);
    standing.rows().rposition(|row| row.iter().any(|&ink| ink > 127)).map_or(0, |row| row as i32 + 1)
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    png.extend_from_slice(&(data.len() as u32).to_be_bytes());
    png.extend_from_slice(kind);
    png.extend_from_slice(data);
    png.extend_from_slice(&crc::checksum(&crc::ISO, &[kind, data]).to_be_bytes());
}
