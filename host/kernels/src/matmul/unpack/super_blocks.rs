//! The formats with blocks of 256: eight panels of 32 columns, whose scales are scaled in turn.

use super::{
    Format, Panel, Sink, TwoScales, TwoScalesWithMin, WithMin, high_nibbles, load_rows_32,
    low_nibbles,
};
use crate::simd::{RowGroup, Simd};

/// The codes of 2 bits that Q2_K and Q3_K have of 32 columns, from the bits at `shift`.
#[inline(always)]
fn two_bits<S: Simd>(s: S, packed: [S::Ints; 8], shift: u32) -> [S::Ints; 8] {
    let mut codes = packed;
    for code in &mut codes {
        *code = s.and(s.shr(*code, shift), s.ints(0x0303_0303));
    }
    codes
}

/// Byte `i` of each word.
#[inline(always)]
fn byte<S: Simd>(s: S, words: S::Ints, i: usize) -> S::Ints {
    s.and(s.shr(words, 8 * i as u32), s.ints(0xff))
}

pub(in crate::matmul) struct Q2K;
impl Format for Q2K {
    const BLOCK_BYTES: usize = 84;
    const PANELS: usize = 8;
    type Kind = TwoScalesWithMin;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        0
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let both = s.load_rows(rows, offset);
        let head = s.load_words(rows, offset + 80);
        let d = s.low_halves(head);
        let minus_dmin = s.mul_floats(s.low_halves(s.shr(head, 16)), s.floats(-1.0));
        for half in 0..2 {
            let packed = load_rows_32(s, rows, offset + 16 + 32 * half);
            for quarter in 0..4 {
                let words = both[2 * half + quarter / 2];
                let (scale_words, min_words) = (low_nibbles(s, words), high_nibbles(s, words));
                let mut scales = [d; 2];
                let mut mins = [d; 2];
                for i in 0..2 {
                    let sub_block = quarter % 2 * 2 + i;
                    let scale = s.to_floats(byte(s, scale_words, sub_block));
                    scales[i] = s.mul_floats(d, scale);
                    let min = s.to_floats(byte(s, min_words, sub_block));
                    mins[i] = s.mul_floats(minus_dmin, min);
                }
                let codes = two_bits(s, packed, 2 * quarter as u32);
                sink.take(
                    s,
                    Panel {
                        codes,
                        scales,
                        mins,
                    },
                );
            }
        }
    }
}

pub(in crate::matmul) struct Q3K;
impl Format for Q3K {
    const BLOCK_BYTES: usize = 110;
    const PANELS: usize = 8;
    type Kind = TwoScales;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        4
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let d = s.load_halves(rows, offset + 108);
        let high = load_rows_32(s, rows, offset);
        let low_bits = [96, 100].map(|at| s.load_words(rows, offset + at));
        let high_bits = s.load_words(rows, offset + 104);
        for half in 0..2 {
            let packed = load_rows_32(s, rows, offset + 32 + 32 * half);
            for quarter in 0..4 {
                let panel = 4 * half + quarter;
                let mut codes = two_bits(s, packed, 2 * quarter as u32);
                for (code, high) in codes.iter_mut().zip(high) {
                    let third = s.and(s.shr(high, panel as u32), s.ints(0x0101_0101));
                    *code = s.or(*code, s.shl(third, 2));
                }
                // Each word has the scales of two panels.
                let word = panel / 2;
                let low = low_nibbles(s, s.shr(low_bits[word % 2], 4 * (word / 2) as u32));
                let upper = s.and(s.shr(high_bits, 2 * word as u32), s.ints(0x0303_0303));
                let six_bits = s.or(low, s.shl(upper, 4));
                let mut scales = [d; 2];
                for (i, scale) in scales.iter_mut().enumerate() {
                    let code = s.to_floats(byte(s, six_bits, panel % 2 * 2 + i));
                    let signed = s.fma_floats(code, s.floats(1.0), s.floats(-32.0));
                    *scale = s.mul_floats(d, signed);
                }
                sink.take(
                    s,
                    Panel {
                        codes,
                        scales,
                        mins: [s.floats(0.0); 2],
                    },
                );
            }
        }
    }
}

/// Scales and negated minimums of a Q4_K or Q5_K block.
struct SuperBlock<S: Simd> {
    d: S::Floats,
    minus_dmin: S::Floats,
    /// A byte for each of the sub-blocks `0..4`, `4..8`.
    scales: [S::Ints; 2],
    mins: [S::Ints; 2],
}

impl<S: Simd> SuperBlock<S> {
    #[inline(always)]
    fn load(s: S, rows: RowGroup<'_, S>, offset: usize) -> Self {
        let [head, a, b, c] = s.load_rows(rows, offset);
        let six = s.ints(0x3f3f_3f3f);
        let high = s.ints(0x3030_3030);
        let minus_dmin = s.mul_floats(s.low_halves(s.shr(head, 16)), s.floats(-1.0));
        Self {
            d: s.low_halves(head),
            minus_dmin,
            scales: [
                s.and(a, six),
                s.or(low_nibbles(s, c), s.and(s.shr(a, 2), high)),
            ],
            mins: [
                s.and(b, six),
                s.or(high_nibbles(s, c), s.and(s.shr(b, 2), high)),
            ],
        }
    }

    /// The panel of sub-block `i` with these codes.
    #[inline(always)]
    fn panel(&self, s: S, i: usize, codes: [S::Ints; 8]) -> Panel<S> {
        let shift = (i % 4 * 8) as u32;
        let scale = s.and(s.shr(self.scales[i / 4], shift), s.ints(0xff));
        let scale = s.mul_floats(self.d, s.to_floats(scale));
        let min = s.and(s.shr(self.mins[i / 4], shift), s.ints(0xff));
        let min = s.mul_floats(self.minus_dmin, s.to_floats(min));
        Panel {
            codes,
            scales: [scale; 2],
            mins: [min; 2],
        }
    }
}

pub(in crate::matmul) struct Q4K;
impl Format for Q4K {
    const BLOCK_BYTES: usize = 144;
    const PANELS: usize = 8;
    type Kind = WithMin;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        0
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let head = SuperBlock::load(s, rows, offset);
        for pair in 0..4 {
            let packed = load_rows_32(s, rows, offset + 16 + 32 * pair);
            let mut codes = packed;
            for code in &mut codes {
                *code = low_nibbles(s, *code);
            }
            sink.take(s, head.panel(s, 2 * pair, codes));
            codes = packed;
            for code in &mut codes {
                *code = high_nibbles(s, *code);
            }
            sink.take(s, head.panel(s, 2 * pair + 1, codes));
        }
    }
}

pub(in crate::matmul) struct Q5K;
impl Format for Q5K {
    const BLOCK_BYTES: usize = 176;
    const PANELS: usize = 8;
    type Kind = WithMin;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        0
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let head = SuperBlock::load(s, rows, offset);
        let mut high = load_rows_32(s, rows, offset + 16);
        let bit = s.ints(0x0101_0101);
        for pair in 0..4 {
            let packed = load_rows_32(s, rows, offset + 48 + 32 * pair);
            let mut codes = packed;
            for (code, high) in codes.iter_mut().zip(high) {
                *code = s.or(low_nibbles(s, *code), s.shl(s.and(high, bit), 4));
            }
            sink.take(s, head.panel(s, 2 * pair, codes));
            codes = packed;
            for (code, high) in codes.iter_mut().zip(&mut high) {
                let fifth = s.shl(s.and(s.shr(*high, 1), bit), 4);
                *code = s.or(high_nibbles(s, *code), fifth);
                *high = s.shr(*high, 2);
            }
            sink.take(s, head.panel(s, 2 * pair + 1, codes));
        }
    }
}

pub(in crate::matmul) struct Q6K;
impl Format for Q6K {
    const BLOCK_BYTES: usize = 210;
    const PANELS: usize = 8;
    type Kind = TwoScales;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        32
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let d = s.load_halves(rows, offset + 208);
        let all_scales = s.load_rows(rows, offset + 192);
        // Scales are signed: shifted left so that the byte's sign is the word's, they come
        // out 2^24 times too large, which costs no bit.
        let d = s.mul_floats(d, s.floats(1.0 / 16_777_216.0));
        let two_bits = s.ints(0x0303_0303);
        for half in 0..2 {
            let high = load_rows_32(s, rows, offset + 128 + 32 * half);
            for quarter in 0..4 {
                let low = load_rows_32(s, rows, offset + 64 * half + quarter % 2 * 32);
                let mut codes = low;
                for (code, high) in codes.iter_mut().zip(high) {
                    let low = low_nibbles(s, s.shr(*code, (quarter / 2 * 4) as u32));
                    let high = s.and(s.shr(high, 2 * quarter as u32), two_bits);
                    *code = s.or(low, s.shl(high, 4));
                }
                let words = all_scales[2 * half + quarter / 2];
                let first = (24 - quarter % 2 * 16) as u32;
                let top_byte = s.ints(0xff00_0000_u32.cast_signed());
                let mut scales = [d; 2];
                for (i, scale) in scales.iter_mut().enumerate() {
                    let byte = s.and(s.shl(words, first - 8 * i as u32), top_byte);
                    *scale = s.mul_floats(d, s.to_floats(byte));
                }
                sink.take(
                    s,
                    Panel {
                        codes,
                        scales,
                        mins: [s.floats(0.0); 2],
                    },
                );
            }
        }
    }
}
