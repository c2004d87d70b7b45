//! Scales quantised in turn, with the numbers that bitsandbytes on a CPU gives.

use kernels::Scales;

/// Scales that share a scale.
pub(super) const NESTED_BLOCK: usize = 256;

/// The signed map of eight bits (Dettmers 2015, arXiv 1511.04561): seven decades, and in each twice as many values as in the one
/// below; zero and one. As `create_dynamic_map` of bitsandbytes.
pub(super) fn dynamic_map() -> Box<[f32; 256]> {
    let mut values = vec![0.0, 1.0];
    for i in 0..7 {
        let steps = 1usize << i;
        // torch counts a line's second half from its end, and rounds product and sum once.
        let step = (1.0f32 - 0.1) / steps as f32;
        let line = |k: usize| {
            if k < steps.div_ceil(2) { step.mul_add(k as f32, 0.1) } else { (-step).mul_add((steps - k) as f32, 1.0) }
        };
        let decade = 10f64.powi(i - 6) as f32;
        for k in 0..steps {
            let mean = (line(k) + line(k + 1)) / 2.0 * decade;
            values.extend([mean, -mean]);
        }
    }
    values.sort_by(f32::total_cmp);
    let map: [f32; 256] = values.try_into().unwrap_or_else(|v: Vec<f32>| panic!("{} values", v.len()));
    Box::new(map)
}

/// The scales as codes about their mean.
pub(super) fn nested(scales: &[f32]) -> Scales {
    let (table, offset) = (dynamic_map(), mean(scales));
    let near = nearest(&table);
    let (mut codes, mut largest) = (Vec::with_capacity(scales.len()), Vec::new());
    for block in scales.chunks(NESTED_BLOCK) {
        let scale = block.iter().fold(0.0f32, |m, s| m.max((s - offset).abs()));
        largest.push(scale);
        let inverse = 1.0 / scale;
        let code = |s: &f32| match scale {
            0.0 => 0,
            _ => near[(((s - offset) * inverse + 1.0) * 32767.5 + 0.5) as usize],
        };
        codes.extend(block.iter().map(code));
    }
    Scales::Nested { codes, table, block: NESTED_BLOCK, scales: largest, offset }
}

/// The nearest code of each of 65536 values from -1 to 1: the library looks a value up by its place among them.
fn nearest(table: &[f32; 256]) -> Vec<u8> {
    let middles: Vec<f32> = table.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    let value = |i: u32| (-1.0 + 2.0 * f64::from(i) / 65535.0) as f32;
    (0..=0xffff).map(|i| middles.partition_point(|m| *m < value(i)) as u8).collect()
}

/// The mean as torch sums it on one thread: eight lanes, four partial sums of each, and a cascade of four levels.
fn mean(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const WAYS: usize = 4;
    type Sums = [[f32; LANES]; WAYS];
    if values.len() < LANES {
        let (fours, rest) = values.as_chunks::<WAYS>();
        let mut sums = [0.0f32; WAYS];
        fours.iter().for_each(|four| sums.iter_mut().zip(four).for_each(|(sum, x)| *sum += x));
        sums[0] = rest.iter().fold(sums[0], |sum, x| sum + x);
        return sums.into_iter().reduce(|a, b| a + b).unwrap_or_default() / values.len().max(1) as f32;
    }
    let add =
        |to: &mut Sums, from: &Sums| to.iter_mut().flatten().zip(from.iter().flatten()).for_each(|(t, f)| *t += f);
    let vectors = values.len() / LANES;
    let (blocks, _) = values.as_chunks::<{ LANES * WAYS }>();
    let size = vectors / WAYS;
    let power = 4.max(size.max(1).next_power_of_two().trailing_zeros() / 4);
    let mut levels: [Sums; 4] = [[[0.0; LANES]; WAYS]; 4];
    for (i, block) in blocks.iter().enumerate() {
        let (block, _) = block.as_chunks::<LANES>();
        add(&mut levels[0], block.try_into().expect("four vectors"));
        let done = i + 1;
        let mut level = 1;
        while level < 4 && done.is_multiple_of(1 << (power * level as u32)) {
            let below = std::mem::take(&mut levels[level - 1]);
            add(&mut levels[level], &below);
            level += 1;
        }
    }
    let [mut sums, a, b, c] = levels;
    [a, b, c].iter().for_each(|level| add(&mut sums, level));
    let [mut lanes, rest @ ..] = sums;
    let plus = |to: &mut [f32; LANES], from: &[f32]| to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
    values[size * WAYS * LANES..vectors * LANES].chunks_exact(LANES).for_each(|vector| plus(&mut lanes, vector));
    rest.iter().for_each(|way| plus(&mut lanes, way));
    let tail = values[vectors * LANES..].iter().fold(0.0f32, |sum, x| sum + x);
    lanes.iter().fold(tail, |sum, x| sum + x) / values.len().max(1) as f32
}
