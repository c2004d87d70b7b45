//! Axes: from values to places, with ticks at round numbers.

/// A range of values along a range of places.
pub(super) struct Axis {
    low: f64,
    high: f64,
    places: (f32, f32),
    log: bool,
    steps: usize,
    whole: bool,
}

pub(super) struct Tick {
    pub(super) at: f32,
    pub(super) label: String,
}

impl Axis {
    /// An axis of counts, exactly as wide as its values.
    pub(super) fn counting(values: impl Iterator<Item = f64>, places: (f32, f32)) -> Axis {
        let (low, high) = range(values).unwrap_or((0.0, 1.0));
        let (low, high) = if low == high { (low - 1.0, high + 1.0) } else { (low, high) };
        Axis { low, high, places, log: false, steps: 6, whole: true }
    }

    /// An axis of measurements, with a little room on either side.
    pub(super) fn measuring(values: impl Iterator<Item = f64>, places: (f32, f32), log: bool) -> Axis {
        let (low, high) = range(values).unwrap_or((1.0, 10.0));
        let (low, high) = if log { (low.log10(), high.log10()) } else { (low, high) };
        // A constant must not become noise of the last bit blown up to the whole height.
        let largest = if low == 0.0 && high == 0.0 { 1.0 } else { low.abs().max(high.abs()) };
        let least = if log { 0.1 } else { largest * 1e-6 };
        let room = if high - low < least { (least * 1e5).min(1.0).max(least) / 2.0 } else { (high - low) * 0.06 };
        let (low, high) = (low - room, high + room);
        let back = |v: f64| if log { 10f64.powf(v) } else { v };
        Axis { low: back(low), high: back(high), places, log, steps: 6, whole: false }
    }

    pub(super) fn place(&self, value: f64) -> f32 {
        let map = |v: f64| if self.log { v.log10() } else { v };
        let share = (map(value) - map(self.low)) / (map(self.high) - map(self.low));
        self.places.0 + share as f32 * (self.places.1 - self.places.0)
    }

    pub(super) fn ticks(&self) -> Vec<Tick> {
        let (values, step) = if self.log && self.high / self.low > 8.0 { self.decades() } else { self.evenly() };
        let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let label = |v: f64| if step > 0.0 { label(v, step, largest) } else { label(v, v, v) };
        values.iter().map(|&v| Tick { at: self.place(v), label: label(v) }).collect()
    }

    /// Multiples of 1, 2 or 5 times a power of ten, about `steps` of them, and their distance.
    fn evenly(&self) -> (Vec<f64>, f64) {
        let rough = (self.high - self.low) / self.steps as f64;
        let power = 10f64.powf(rough.log10().floor());
        let nice = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&step| step >= rough * 0.999);
        let step = nice.unwrap_or(10.0 * power);
        let step = if self.whole { step.max(1.0) } else { step };
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        ((first..=last).map(|n| n as f64 * step).collect(), step)
    }

    /// Powers of ten, with 2 and 5 between them where there are few; no common distance.
    fn decades(&self) -> (Vec<f64>, f64) {
        let (low, high) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let mantissas: &[f64] = if high - low <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = ((high - low) / 8 + 1) as usize;
        let powers = (low..=high).step_by(stride).map(|e| 10f64.powi(e));
        let values = powers.flat_map(|power| mantissas.iter().map(move |m| m * power));
        (values.filter(|v| (self.low..=self.high).contains(v)).collect(), 0.0)
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, v| Some(range.map_or((v, v), |(low, high): (f64, f64)| (low.min(v), high.max(v)))))
}

/// `value` with the digits that tell it from its neighbours `step` away; with an exponent where `largest` wants one.
fn label(value: f64, step: f64, largest: f64) -> String {
    let order = |v: f64| v.abs().log10().floor() as i32;
    if value == 0.0 {
        return "0".to_owned();
    }
    let (top, digit) = (order(largest * (1.0 + 1e-12)), order(step * (1.0 + 1e-9)));
    if (-3..6).contains(&top) {
        return format!("{value:.*}", (-digit).max(0) as usize);
    }
    let mantissa = value / 10f64.powi(top);
    format!("{mantissa:.*}e{top}", (top - digit).max(0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_and_lie_inside() {
        let axis = |low: f64, high: f64| Axis::measuring([low, high].into_iter(), (100.0, 0.0), false);
        assert_eq!(labels(&axis(0.31, 0.52)), ["0.30", "0.35", "0.40", "0.45", "0.50"]);
        assert_eq!(labels(&axis(0.0, 5e-6)), ["0", "1e-6", "2e-6", "3e-6", "4e-6", "5e-6"]);
        assert_eq!(labels(&axis(-120.0, -80.0)), ["-120", "-110", "-100", "-90", "-80"]);
        assert!(axis(0.31, 0.52).ticks().iter().all(|tick| (0.0..=100.0).contains(&tick.at)));
    }

    #[test]
    fn counts_have_whole_ticks_and_constants_a_range() {
        assert_eq!(labels(&Axis::counting([1.0, 3.0].into_iter(), (0.0, 1.0))), ["1", "2", "3"]);
        assert_eq!(labels(&Axis::counting([0.0, 20_000.0].into_iter(), (0.0, 1.0))).last().unwrap(), "20000");
        let constant = Axis::measuring([0.5, 0.5].into_iter(), (0.0, 1.0), false);
        assert!((constant.place(0.5) - 0.5).abs() < 1e-6);
        assert!(labels(&constant).contains(&"0.50".to_owned()), "{:?}", labels(&constant));
        assert_eq!(
            labels(&Axis::measuring([0.0].into_iter(), (0.0, 1.0), false)),
            ["-0.04", "-0.02", "0", "0.02", "0.04"]
        );
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten() {
        let axis = Axis::measuring([1e-5, 2.0].into_iter(), (0.0, 1.0), true);
        assert_eq!(labels(&axis), ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]);
        let narrow = Axis::measuring([0.9, 30.0].into_iter(), (0.0, 1.0), true);
        assert_eq!(labels(&narrow), ["1", "2", "5", "10", "20"]);
    }
}
