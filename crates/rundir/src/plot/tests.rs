//! What a plot shows, seen through its SVG and its pixels.
use super::*;
use crate::crc;
use crate::scratch::Scratch;
use serde_json::json;

fn panel(points: Vec<(f64, f64)>) -> Panel {
    let series = vec![Series { name: "a".into(), points }];
    Panel { title: "T & <t>".into(), x_label: "step".into(), y_label: "y".into(), log_y: false, series }
}

/// Width, height and the pixels of a PNG, its checksums checked.
fn decode(png: &[u8]) -> (usize, usize, Vec<[u8; 3]>) {
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let (mut rest, mut chunks) = (&png[8..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let crc = u32::from_be_bytes(rest[8 + length..12 + length].try_into().unwrap());
        assert_eq!(crc, crc::checksum(&crc::ISO, &[&rest[4..8 + length]]));
        chunks.push((&rest[4..8], &rest[8..8 + length]));
        rest = &rest[12 + length..];
    }
    assert_eq!(chunks.iter().map(|chunk| chunk.0).collect::<Vec<_>>(), [b"IHDR", b"IDAT", b"IEND"]);
    let side = |at: usize| u32::from_be_bytes(chunks[0].1[at..at + 4].try_into().unwrap()) as usize;
    let rows = miniz_oxide::inflate::decompress_to_vec_zlib(chunks[1].1).unwrap();
    let pixels = rows.chunks(1 + 3 * side(0)).flat_map(|row| row[1..].chunks(3).map(|p| [p[0], p[1], p[2]])).collect();
    (side(0), side(4), pixels)
}

fn count(pixels: &[[u8; 3]], colour: u32) -> usize {
    pixels.iter().filter(|pixel| pixel[..] == colour.to_be_bytes()[1..]).count()
}

#[test]
fn both_files_are_written_and_the_picture_has_its_line() {
    let scratch = Scratch::new();
    let points: Vec<_> = (0..50).map(|x| (f64::from(x), f64::from(x * x))).collect();
    let [svg, png] = write(&[panel(points)], &scratch.join("plots/loss")).unwrap();
    let svg = std::fs::read_to_string(svg).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 1);
    assert!(svg.contains("T &amp; &lt;t&gt;"), "{svg}");
    let (width, height, pixels) = decode(&std::fs::read(png).unwrap());
    assert_eq!((width, height, pixels.len()), (880, 528, 880 * 528));
    assert!(count(&pixels, COLOURS[0]) > 500);
    assert!(count(&pixels, INK) > 100, "the title is there");
    assert!(count(&pixels, 0xFFFFFF) > pixels.len() / 2);
}

#[test]
fn gaps_break_the_line_and_lone_points_are_dots() {
    let nan = f64::NAN;
    let svg =
        to_svg(&[panel(vec![(0.0, 1.0), (1.0, 2.0), (2.0, nan), (3.0, 1.0), (4.0, nan), (5.0, 1.0), (6.0, 2.0)])]);
    assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 5));
    let log = Panel { log_y: true, ..panel(vec![(0.0, 1.0), (1.0, 10.0), (2.0, 0.0), (3.0, -1.0), (4.0, 100.0)]) };
    let svg = to_svg(&[log]);
    assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (1, 3));
    assert!(svg.contains("y (log)"), "{svg}");
}

#[test]
fn panels_without_values_are_drawn_all_the_same() {
    for points in [vec![], vec![(0.0, f64::NAN)], vec![(f64::INFINITY, 1.0)], vec![(1.0, 1.0)]] {
        let drawn = [panel(points.clone())];
        let shows_point = points == [(1.0, 1.0)];
        assert_eq!(to_svg(&drawn).contains("no data"), !shows_point);
        assert_eq!(count(&decode(&to_png(&drawn)).2, COLOURS[0]) > 0, shows_point);
    }
    assert_eq!(decode(&to_png(&[])).0, 880);
}

#[test]
fn a_long_log_is_thinned_without_losing_its_peak() {
    let mut points: Vec<_> = (0..100_000).map(|x| (f64::from(x), f64::from(x % 7))).collect();
    points[54_321].1 = 1000.0;
    let svg = to_svg(&[panel(points.clone())]);
    assert!(svg.len() < 100_000, "{} bytes", svg.len());
    let highest = |p: &[(f32, f32)]| p.iter().map(|p| p.1).fold(f32::MIN, f32::max);
    let run: Vec<_> = points.iter().map(|&(x, y)| (x as f32 / 300.0, y as f32)).collect();
    assert_eq!(highest(&thin_out(run)), 1000.0);
}

#[test]
fn a_log_becomes_panels_with_gaps_where_a_class_was_absent() {
    let records: Vec<Record> = [
        json!({"step": 1, "loss": 0.5, "rewards/chosen": 0.1}),
        json!({"step": 2, "loss": 0.4}),
        json!({"step": 2, "eval_loss": 0.45, "eval_rewards/chosen": 0.2}),
        json!({"step": 3, "loss": 0.3, "rewards/chosen": 0.3}),
    ]
    .iter()
    .map(|record| record.as_object().unwrap().clone())
    .collect();
    let panels = panels_of_log(&records);
    assert_eq!(panels.iter().map(|p| p.title.as_str()).collect::<Vec<_>>(), ["Loss", "Rewards"]);
    let names: Vec<_> = panels[1].series.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["rewards/chosen", "eval_rewards/chosen"]);
    let chosen = &panels[1].series[0].points;
    assert!(chosen.len() == 3 && chosen[1].0 == 2.0 && chosen[1].1.is_nan(), "{chosen:?}");
    assert_eq!(panels[0].series[1].points, [(2.0, 0.45)]);
}

#[test]
fn names_too_many_for_a_row_continue_in_the_next() {
    let series = (0..7).map(|n| Series { name: format!("a rather long name {n}"), points: vec![(0.0, 1.0)] }).collect();
    let panel = Panel { series, ..panel(vec![]) };
    let names = legend(&panel, 360.0);
    assert_eq!(names.iter().map(|name| name.at.1).collect::<Vec<_>>(), [0.0, 0.0, 12.0, 12.0, 24.0, 24.0, 36.0]);
    assert!(names.iter().all(|name| name.at.0 + 16.0 + scene::text_width(name.text) <= 360.0));
}
