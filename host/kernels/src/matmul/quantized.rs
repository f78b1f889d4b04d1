//! Products with quantized weights.
//!
//! Formula, for a row of weights and a token, over blocks of 32 columns in order:
//! `sum = fma(dot(codes, x.codes) - bias * sum(x.codes), scale * x.scale, sum)`, then for
//! formats with a minimum `sum = fma(min, x.scale * sum(x.codes), sum)`. Formats that scale 16
//! columns do either for the first 16, then for the last. The dot product is of integers, so
//! exact; the rest is f32 in this one order, for one token and for a thousand.
//!
//! Rows lie side by side in a vector, a token's codes are broadcast: no sum runs across lanes.

use std::marker::PhantomData;
use std::ops::Range;

use crate::activations::QuantBlock;
use crate::matrix::Matrix;
use crate::simd::{Op, RowGroup, Simd};

use super::output::Output;
use super::unpack::{Format, Kind, Panel, Sink};

/// Panels that are unpacked before they are multiplied with all tokens: 256 columns of two
/// groups of rows are 11 KiB, a third of a first-level cache.
const CHUNK: usize = 8;

/// Bytes that a prefetch brings.
const CACHE_LINE: usize = 64;

/// Some groups of [`Simd::ROWS`] rows of `w` times all tokens.
pub(super) struct Quantized<'a, F> {
    /// `[n, cols / 32]`.
    x: &'a [QuantBlock],
    w: Matrix<'a>,
    out: Output<'a>,
    groups: Range<usize>,
    format: PhantomData<F>,
}

impl<'a, F: Format> Quantized<'a, F> {
    /// # Safety
    /// `w` holds format `F`, and no other thread writes the rows of `groups`.
    pub(super) unsafe fn new(
        x: &'a [QuantBlock],
        w: Matrix<'a>,
        out: Output<'a>,
        groups: Range<usize>,
    ) -> Self {
        Self {
            x,
            w,
            out,
            groups,
            format: PhantomData,
        }
    }
}

impl<F: Format> Op for Quantized<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tokens = self.x.len() / self.blocks_per_row();
        match (tokens, S::ROWS) {
            (1, _) => self.few_tokens::<S, 1, 1>(s),
            // Beside 4 tokens and a panel, 32 registers have room for what unpacks it.
            (2, 16) => self.few_tokens::<S, 2, 1>(s),
            (3..=4, 16) => self.few_tokens::<S, 4, 1>(s),
            // Two scales for each panel make it a tight fit; panels kept apart are better then.
            (5..=8, 16) if <F::Kind as Kind>::SCALES == 1 => self.few_tokens::<S, 4, 2>(s),
            // 2 groups and 6 tokens are 12 integer and 12 float sums.
            (_, 16) => self.many_tokens::<S, 2>(s),
            _ => self.many_tokens::<S, 1>(s),
        }
    }
}

impl<F: Format> Quantized<'_, F> {
    #[inline(always)]
    fn blocks_per_row(&self) -> usize {
        self.w.cols() / 32
    }

    /// The bytes of a group of rows. Those of the last one are padded with zeros.
    #[inline(always)]
    fn group_bytes<'b, S: Simd>(&'b self, group: usize, padded: &'b mut Vec<u8>) -> &'b [u8] {
        let length = S::ROWS * self.w.row_bytes();
        let rest = &self.w.data()[group * length..];
        if rest.len() >= length {
            return &rest[..length];
        }
        padded.clear();
        padded.extend_from_slice(rest);
        padded.resize(length, 0);
        padded
    }

    #[inline(always)]
    fn write<S: Simd>(&self, s: S, group: usize, token: usize, sums: S::Floats) {
        let first = group * S::ROWS;
        let rows = S::ROWS.min(self.w.rows() - first);
        let sums = s.floats_to_array(sums);
        // The usual length is a constant, so that it takes no call to copy.
        let sums = if rows == S::ROWS {
            &sums[..S::ROWS]
        } else {
            &sums[..rows]
        };
        // SAFETY: `group` is one of `groups`, whose rows are this operation's alone.
        unsafe { self.out.write(token, first, sums) };
    }

    /// Unpacks in registers and multiplies at once with up to `H` times `T` tokens, `T` at a time;
    /// the last one stands in for those that there are not.
    #[inline(always)]
    fn few_tokens<S: Simd, const T: usize, const H: usize>(&self, s: S) {
        let blocks_per_row = self.blocks_per_row();
        let tokens = self.x.len() / blocks_per_row;
        let row =
            |token: usize| &self.x[token.min(tokens - 1) * blocks_per_row..][..blocks_per_row];
        let x: [[&[QuantBlock]; T]; H] =
            std::array::from_fn(|h| std::array::from_fn(|t| row(h * T + t)));
        let stride = self.w.row_bytes();
        let mut padded = Vec::new();
        for group in self.groups.clone() {
            let rows = RowGroup::<S>::new(self.group_bytes::<S>(group, &mut padded), stride);
            let mut sums = FewTokens::<S, F, T, H> {
                x,
                block: 0,
                sums: [[[s.floats(0.0)]; T]; H],
                format: PhantomData,
            };
            // The processor does not foresee the step from group to group. All of the next one
            // is asked for while this one is worked on; that may be more than the first-level
            // cache holds.
            let next_group = (group + 1) * S::ROWS * stride;
            for block in 0..stride / F::BLOCK_BYTES {
                for line in 0..(S::ROWS * F::BLOCK_BYTES).div_ceil(CACHE_LINE) {
                    let offset = block * S::ROWS * F::BLOCK_BYTES + line * CACHE_LINE;
                    s.prefetch(self.w.data().as_ptr().wrapping_add(next_group + offset));
                }
                F::unpack(s, rows, block * F::BLOCK_BYTES, &mut sums);
            }
            for (token, [sums]) in sums.sums.as_flattened().iter().enumerate().take(tokens) {
                self.write(s, group, token, *sums);
            }
        }
    }

    /// Unpacks `G` groups of rows once for all tokens.
    #[inline(always)]
    fn many_tokens<S: Simd, const G: usize>(&self, s: S) {
        let stride = self.w.row_bytes();
        let blocks_per_row = self.blocks_per_row();
        let tokens = self.x.len() / blocks_per_row;
        let mut panels: [Panels<S>; G] = std::array::from_fn(|_| Panels::new(s));
        let mut padded: [Vec<u8>; G] = std::array::from_fn(|_| Vec::new());
        let mut sums = vec![[s.floats(0.0); G]; tokens];
        let set_bytes = G * S::ROWS * stride;
        for first in self.groups.clone().step_by(G) {
            let groups = G.min(self.groups.end - first);
            sums.fill([s.floats(0.0); G]);
            for chunk in (0..blocks_per_row).step_by(CHUNK) {
                let chunk = chunk..blocks_per_row.min(chunk + CHUNK);
                // As for one token: a chunk's share of the next groups.
                let share = |at: usize| set_bytes * at / blocks_per_row;
                for offset in (share(chunk.start)..share(chunk.end)).step_by(CACHE_LINE) {
                    let next = (first + G) * S::ROWS * stride + offset;
                    s.prefetch(self.w.data().as_ptr().wrapping_add(next));
                }
                for g in 0..G {
                    // An odd group at the end is paired with itself.
                    let group = first + g.min(groups - 1);
                    let bytes = self.group_bytes::<S>(group, &mut padded[g]);
                    let rows = RowGroup::<S>::new(bytes, stride);
                    panels[g].clear();
                    for block in chunk.start / F::PANELS..chunk.end / F::PANELS {
                        F::unpack(s, rows, block * F::BLOCK_BYTES, &mut panels[g]);
                    }
                }
                self.multiply_chunk::<S, G>(s, &panels, chunk, &mut sums);
            }
            for (token, sums) in sums.iter().enumerate() {
                for (g, sums) in sums.iter().take(groups).enumerate() {
                    self.write(s, first + g, token, *sums);
                }
            }
        }
    }

    /// Adds the products of some columns to the sums of all tokens.
    #[inline(always)]
    fn multiply_chunk<S: Simd, const G: usize>(
        &self,
        s: S,
        panels: &[Panels<S>; G],
        chunk: Range<usize>,
        sums: &mut [[S::Floats; G]],
    ) {
        let mut token = 0;
        while sums.len() - token >= 6 {
            self.multiply_tile::<S, G, 6>(s, panels, chunk.clone(), token, sums);
            token += 6;
        }
        while sums.len() - token >= 2 {
            self.multiply_tile::<S, G, 2>(s, panels, chunk.clone(), token, sums);
            token += 2;
        }
        if token < sums.len() {
            self.multiply_tile::<S, G, 1>(s, panels, chunk, token, sums);
        }
    }

    /// As [`multiply_chunk`](Self::multiply_chunk) for the `T` tokens from `first` on.
    #[inline(always)]
    fn multiply_tile<S: Simd, const G: usize, const T: usize>(
        &self,
        s: S,
        panels: &[Panels<S>; G],
        chunk: Range<usize>,
        first: usize,
        sums: &mut [[S::Floats; G]],
    ) {
        let mut x: [&[QuantBlock]; T] = [&[]; T];
        for (t, x) in x.iter_mut().enumerate() {
            let row = (first + t) * self.blocks_per_row();
            *x = &self.x[row + chunk.start..row + chunk.end];
        }
        let mut tile = [[s.floats(0.0); G]; T];
        tile.copy_from_slice(&sums[first..first + T]);
        for (b, panel) in panels[0].slots.iter().enumerate().take(chunk.len()) {
            let mut blocks = [panel; G];
            for (g, block) in blocks.iter_mut().enumerate() {
                *block = &panels[g].slots[b];
            }
            let mut tokens = [&x[0][b]; T];
            for (t, token) in tokens.iter_mut().enumerate() {
                *token = &x[t][b];
            }
            multiply_add::<S, F, G, T>(s, blocks, tokens, &mut tile);
        }
        sums[first..first + T].copy_from_slice(&tile);
    }
}

/// `sums[t][g] += panels[g] * x[t]`: the one place that defines the order of operations.
#[inline(always)]
fn multiply_add<S: Simd, F: Format, const G: usize, const T: usize>(
    s: S,
    panels: [&Panel<S>; G],
    x: [&QuantBlock; T],
    sums: &mut [[S::Floats; G]; T],
) {
    let scales = <F::Kind as Kind>::SCALES;
    for part in 0..scales {
        let mut dots = [[s.ints(0); G]; T];
        for t in 0..T {
            let sum = if scales == 1 {
                x[t].sums[0] + x[t].sums[1]
            } else {
                x[t].sums[part]
            };
            if F::bias::<S>() != 0 {
                dots[t] = [s.ints(-F::bias::<S>() * sum); G];
            }
        }
        let words = 8 / scales;
        for d in part * words..(part + 1) * words {
            for t in 0..T {
                let word = x[t].word(d);
                for g in 0..G {
                    dots[t][g] = if <F::Kind as Kind>::FROM_I8 {
                        s.dot_i8(dots[t][g], panels[g].codes[d], word)
                    } else {
                        s.dot_u8(dots[t][g], panels[g].codes[d], word)
                    };
                }
            }
        }
        for t in 0..T {
            let scale = s.floats(x[t].scale);
            for g in 0..G {
                let scale = s.mul_floats(panels[g].scales[part], scale);
                sums[t][g] = s.fma_floats(s.to_floats(dots[t][g]), scale, sums[t][g]);
            }
        }
    }
    if <F::Kind as Kind>::HAS_MIN {
        for part in 0..scales {
            for t in 0..T {
                let sum = if scales == 1 {
                    x[t].scaled_sum
                } else {
                    x[t].scale * x[t].sums[part] as f32
                };
                for g in 0..G {
                    sums[t][g] = s.fma_floats(panels[g].mins[part], s.floats(sum), sums[t][g]);
                }
            }
        }
    }
}

/// Keeps the panels of a chunk.
struct Panels<S: Simd> {
    slots: [Panel<S>; CHUNK],
    count: usize,
}

impl<S: Simd> Panels<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        let none = Panel {
            codes: [s.ints(0); 8],
            scales: [s.floats(0.0); 2],
            mins: [s.floats(0.0); 2],
        };
        Self {
            slots: [none; CHUNK],
            count: 0,
        }
    }

    #[inline(always)]
    fn clear(&mut self) {
        self.count = 0;
    }
}

impl<S: Simd> Sink<S> for Panels<S> {
    #[inline(always)]
    fn take(&mut self, _s: S, panel: Panel<S>) {
        // Vector by vector, from the registers that hold them: a whole panel would be written
        // to the stack first and copied from there.
        let slot = &mut self.slots[self.count];
        for (slot, codes) in slot.codes.iter_mut().zip(panel.codes) {
            *slot = codes;
        }
        for part in 0..2 {
            slot.scales[part] = panel.scales[part];
            slot.mins[part] = panel.mins[part];
        }
        self.count += 1;
    }
}

/// Multiplies panels with `H` times `T` tokens as they come.
struct FewTokens<'x, S: Simd, F, const T: usize, const H: usize> {
    /// A row of blocks each.
    x: [[&'x [QuantBlock]; T]; H],
    block: usize,
    sums: [[[S::Floats; 1]; T]; H],
    format: PhantomData<F>,
}

impl<S: Simd, F: Format, const T: usize, const H: usize> Sink<S> for FewTokens<'_, S, F, T, H> {
    #[inline(always)]
    fn take(&mut self, s: S, panel: Panel<S>) {
        let x = self.x.map(|rows| rows.map(|row| &row[self.block]));
        self.block += 1;
        for (sums, x) in self.sums.iter_mut().zip(x) {
            multiply_add::<S, F, 1, T>(s, [&panel], x, sums);
        }
    }
}
