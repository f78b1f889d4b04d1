//! Rotary position embedding.

use crate::error::{KernelError, check_length, checked_product};

/// Which two dimensions of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// `i` and `i + r`, with `r` pairs: NeoX, and all of the hub's checkpoints.
    Halves,
    /// `2 i` and `2 i + 1`: GGUF files of the Llama family, whose q and k rows are permuted
    /// for it.
    Interleaved,
}

/// Sines and cosines of some positions, for all layers of a step that share their
/// frequencies. Angles are `position * inv_freq` in f32.
#[derive(Debug, Clone)]
pub struct RopeAngles {
    /// Turning pairs per head.
    pairs: usize,
    /// `[positions, pairs]` of (sine, cosine).
    turns: Vec<(f32, f32)>,
}

impl RopeAngles {
    /// `inv_freq`: of each turning pair; so many of a head's dimensions turn twice over, the
    /// others stay.
    pub fn new(positions: &[usize], inv_freq: &[f32]) -> Self {
        let angles = positions.iter().flat_map(|&position| {
            inv_freq
                .iter()
                .map(move |inv_freq| (position as f32 * inv_freq).sin_cos())
        });
        Self {
            pairs: inv_freq.len(),
            turns: angles.collect(),
        }
    }
}

/// [`rope_with`] the angles of `positions`, `[n]`, and `inv_freq`.
///
/// # Errors
/// As [`rope_with`].
pub fn rope(
    x: &mut [f32],
    heads: usize,
    dim: usize,
    positions: &[usize],
    inv_freq: &[f32],
    style: RopeStyle,
) -> Result<(), KernelError> {
    rope_with(x, heads, dim, &RopeAngles::new(positions, inv_freq), style)
}

/// Turns each pair of each head by its angle. `x`: `[n, heads, dim]`, for the `n` positions of
/// `angles`.
///
/// # Errors
/// [`KernelError::Length`] if `x` has another length, [`KernelError::OutOfRange`] if there are
/// more pairs than `dim / 2`.
pub fn rope_with(
    x: &mut [f32],
    heads: usize,
    dim: usize,
    angles: &RopeAngles,
    style: RopeStyle,
) -> Result<(), KernelError> {
    let pairs = angles.pairs;
    if pairs > dim / 2 {
        let limit = dim / 2 + 1;
        return Err(KernelError::OutOfRange {
            what: "pairs of inv_freq",
            value: pairs,
            limit,
        });
    }
    let row = checked_product("heads", heads, dim)?;
    if pairs == 0 || row == 0 {
        return Ok(());
    }
    let n = angles.turns.len() / pairs;
    check_length("x", x.len(), checked_product("x", n, row)?)?;
    for (x, turns) in x
        .chunks_exact_mut(row)
        .zip(angles.turns.chunks_exact(pairs))
    {
        for head in x.chunks_exact_mut(dim) {
            match style {
                RopeStyle::Halves => {
                    let (first, second) = head.split_at_mut(pairs);
                    for ((a, b), turn) in first.iter_mut().zip(second).zip(turns) {
                        (*a, *b) = rotate(*a, *b, *turn);
                    }
                }
                RopeStyle::Interleaved => {
                    for ([a, b], turn) in head.as_chunks_mut().0.iter_mut().zip(turns) {
                        (*a, *b) = rotate(*a, *b, *turn);
                    }
                }
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn rotate(a: f32, b: f32, (sin, cos): (f32, f32)) -> (f32, f32) {
    (a * cos - b * sin, a * sin + b * cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{bits, rng, values};

    const INV_FREQ: [f32; 4] = [1.0, 0.1, 0.01, 0.001];

    /// The pair's indices in a head with `pairs` turning pairs.
    fn pair(style: RopeStyle, pairs: usize, i: usize) -> (usize, usize) {
        match style {
            RopeStyle::Halves => (i, i + pairs),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        }
    }

    #[test]
    fn turns_every_pair_by_its_angle() {
        let positions = [0, 1, 7, 4000];
        // 8 of 10 dimensions turn.
        let (heads, dim) = (3, 10);
        let x = values(&mut rng(1), positions.len() * heads * dim);
        for style in [RopeStyle::Halves, RopeStyle::Interleaved] {
            let mut out = x.clone();
            rope(&mut out, heads, dim, &positions, &INV_FREQ, style).unwrap();
            let rows = x.chunks_exact(dim).zip(out.chunks_exact(dim));
            for (row, (x, out)) in rows.enumerate() {
                assert_eq!(x[8..], out[8..]);
                for (i, inv_freq) in INV_FREQ.iter().enumerate() {
                    let angle = f64::from(positions[row / heads] as f32 * inv_freq);
                    let (first, second) = pair(style, 4, i);
                    let (a, b) = (f64::from(x[first]), f64::from(x[second]));
                    let turned_a = a * angle.cos() - b * angle.sin();
                    let turned_b = a * angle.sin() + b * angle.cos();
                    assert!((f64::from(out[first]) - turned_a).abs() < 3e-7);
                    assert!((f64::from(out[second]) - turned_b).abs() < 3e-7);
                }
            }
        }
    }

    #[test]
    fn a_position_has_the_same_bits_alone() {
        let positions: Vec<usize> = (100..117).collect();
        let x = values(&mut rng(2), positions.len() * 2 * 8);
        for style in [RopeStyle::Halves, RopeStyle::Interleaved] {
            let mut whole = x.clone();
            rope(&mut whole, 2, 8, &positions, &INV_FREQ, style).unwrap();
            for (i, &position) in positions.iter().enumerate() {
                let mut alone = x[i * 16..][..16].to_vec();
                rope(&mut alone, 2, 8, &[position], &INV_FREQ, style).unwrap();
                assert_eq!(bits(&alone), bits(&whole[i * 16..][..16]));
            }
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let error = rope(&mut [0.0; 6], 1, 6, &[0], &INV_FREQ, RopeStyle::Halves).unwrap_err();
        assert_eq!(error.to_string(), "pairs of inv_freq is 4, the limit is 4");
        let error = rope(&mut [0.0; 9], 1, 8, &[0], &INV_FREQ, RopeStyle::Halves).unwrap_err();
        assert_eq!(
            error.to_string(),
            "x holds 9 elements where its shape needs 8"
        );
    }
}
