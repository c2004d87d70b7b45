//! The dynamic eight-bit codes: seven decades, the higher ones cut finer.

use super::Rounding;

/// Values of the codes, ascending, of first moments: both signs, 0 and 1.
pub(crate) const SIGNED: [f32; 256] = map(true);
/// Of second moments: 0 to 1.
pub(crate) const UNSIGNED: [f32; 256] = map(false);

/// Decades of the codes.
const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Middles of a decade's equal steps from 0.1 to 1, times the decade; each rounded where torch rounds.
const fn map(signed: bool) -> [f32; 256] {
    let mut map = [0.0; 256];
    map[1] = 1.0;
    let (mut len, mut decade) = (2, 0);
    while decade < DECADES.len() {
        let cuts = if signed { 1 << decade } else { 2 << decade };
        let mut k = 0;
        while k < cuts {
            let value = DECADES[decade] * ((border(k, cuts) + border(k + 1, cuts)) / 2.0);
            map[len] = value;
            len += 1;
            if signed {
                map[len] = -value;
                len += 1;
            }
            k += 1;
        }
        decade += 1;
    }
    assert!(len == 256);
    sorted(map)
}

/// Border `k` of `cuts` equal steps, as `torch.linspace(0.1, 1, cuts + 1)`: counted from the nearer end.
const fn border(k: usize, cuts: usize) -> f32 {
    let step = ((1.0 - 0.1f32) / cuts as f32) as f64;
    if k < cuts.div_ceil(2) {
        (0.1f32 as f64 + step * k as f64) as f32
    } else {
        (1.0 - step * (cuts - k) as f64) as f32
    }
}

const fn sorted(mut map: [f32; 256]) -> [f32; 256] {
    let mut i = 1;
    while i < 256 {
        let mut j = i;
        while j > 0 && map[j - 1] > map[j] {
            (map[j - 1], map[j]) = (map[j], map[j - 1]);
            j -= 1;
        }
        i += 1;
    }
    map
}

/// The number of entries below `x`, at most 255; without branches.
#[inline(always)]
fn below(map: &[f32; 256], x: f32) -> usize {
    let mut at = 0;
    let mut step = 128;
    while step > 0 {
        at += if map[at + step - 1] < x { step } else { 0 };
        step /= 2;
    }
    at
}

/// The code nearest to `x`; of two equally near the lower.
#[inline(always)]
fn nearest(map: &[f32; 256], x: f32) -> usize {
    let right = below(map, x).max(1);
    if map[right] - x < x - map[right - 1] { right } else { right - 1 }
}

/// The code of a value that has been divided by its block's largest amount.
#[inline(always)]
pub(crate) fn encode(map: &[f32; 256], rounding: Rounding, x: f32) -> u8 {
    let x = x.clamp(-1.0, 1.0);
    let code = match rounding {
        Rounding::Grid => {
            let place = ((x + 1.0) * 0.5 * 65535.0 + 0.5) as u32;
            nearest(map, place as f32 / 65535.0 * 2.0 - 1.0)
        }
        Rounding::Nearest => {
            let code = nearest(map, x);
            // Only towards zero can the sign get lost.
            if x < 0.0 && map[code] >= 0.0 { code - 1 } else { code }
        }
    };
    code as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_the_ends_and_the_zero_that_they_are_known_for() {
        assert_eq!((SIGNED[0], SIGNED[127], SIGNED[255]), (-0.992_968_74, 0.0, 1.0));
        assert_eq!((UNSIGNED[0], UNSIGNED[255]), (0.0, 1.0));
        assert!(SIGNED.is_sorted() && UNSIGNED.is_sorted());
    }

    #[test]
    fn every_code_is_its_own_nearest_and_a_small_negative_value_stays_negative() {
        for map in [&SIGNED, &UNSIGNED] {
            (0..=255u8).for_each(|c| assert_eq!(encode(map, Rounding::Nearest, map[usize::from(c)]), c));
        }
        assert_eq!(encode(&SIGNED, Rounding::Nearest, -1e-9), 126);
        assert_eq!(encode(&SIGNED, Rounding::Nearest, 1e-9), 127);
        assert_eq!(encode(&SIGNED, Rounding::Nearest, -1.0), 0);
        // The middle of two codes goes to the lower.
        assert_eq!(encode(&SIGNED, Rounding::Nearest, SIGNED[128] / 2.0), 127);
        // Zero lies between two points of the grid, and goes to the upper.
        assert_eq!((encode(&UNSIGNED, Rounding::Grid, 0.0), encode(&SIGNED, Rounding::Grid, 0.0)), (7, 131));
        assert_eq!((encode(&UNSIGNED, Rounding::Nearest, 0.0), encode(&SIGNED, Rounding::Nearest, 0.0)), (0, 127));
    }
}
