//! Block formats to what the kernels multiply: unsigned codes of a byte, with a scale and
//! perhaps a minimum for each 32 or 16 of them, for several rows side by side.
//!
//! Here are the formats with blocks of 32, in `super_blocks` those with blocks of 256.

mod super_blocks;

pub(super) use super_blocks::{Q2K, Q3K, Q4K, Q5K, Q6K};

use crate::simd::{RowGroup, Simd};

/// 32 columns of [`Simd::ROWS`] rows: `weight = scale * (code - bias) + min`.
#[derive(Clone, Copy)]
pub(super) struct Panel<S: Simd> {
    /// Word `d` holds the codes of columns `4d .. 4d + 4`.
    pub(super) codes: [S::Ints; 8],
    /// Of each half of the columns; the same one twice unless [`Kind::SCALES`] is 2.
    pub(super) scales: [S::Floats; 2],
    /// Of each half, as the scales. Meaningless unless [`Kind::HAS_MIN`].
    pub(super) mins: [S::Floats; 2],
}

/// What differs between formats once they are unpacked.
pub(super) trait Kind {
    /// Scales per 32 columns.
    const SCALES: usize = 1;
    /// Whether weights have a minimum, one for each scale, instead of a constant bias.
    const HAS_MIN: bool = false;
    /// Whether codes come from [`Simd::codes_from_i8`]. Otherwise they are below 64.
    const FROM_I8: bool = false;
}

pub(super) struct Biased;
impl Kind for Biased {}

pub(super) struct WithMin;
impl Kind for WithMin {
    const HAS_MIN: bool = true;
}

pub(super) struct FromI8;
impl Kind for FromI8 {
    const FROM_I8: bool = true;
}

pub(super) struct TwoScales;
impl Kind for TwoScales {
    const SCALES: usize = 2;
}

pub(super) struct TwoScalesWithMin;
impl Kind for TwoScalesWithMin {
    const SCALES: usize = 2;
    const HAS_MIN: bool = true;
}

/// Takes panels in the order of their columns.
pub(super) trait Sink<S: Simd> {
    /// Must be `#[inline(always)]`.
    fn take(&mut self, s: S, panel: Panel<S>);
}

/// A block format of GGML; the layouts are those of `dequantize`.
pub(super) trait Format {
    const BLOCK_BYTES: usize;
    /// Panels per block.
    const PANELS: usize;
    type Kind: Kind;

    /// What codes are too large by.
    fn bias<S: Simd>() -> i32;

    /// Unpacks the block at `offset` of each row. Must be `#[inline(always)]`.
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>);
}

/// The codes in the low, then those in the high halves of 16 bytes.
#[inline(always)]
fn split_nibbles<S: Simd>(s: S, packed: [S::Ints; 4]) -> [S::Ints; 8] {
    let mut codes = [s.ints(0); 8];
    for d in 0..4 {
        codes[d] = low_nibbles(s, packed[d]);
        codes[4 + d] = high_nibbles(s, packed[d]);
    }
    codes
}

#[inline(always)]
fn low_nibbles<S: Simd>(s: S, packed: S::Ints) -> S::Ints {
    s.and(packed, s.ints(0x0f0f_0f0f))
}

#[inline(always)]
fn high_nibbles<S: Simd>(s: S, packed: S::Ints) -> S::Ints {
    s.and(s.shr(packed, 4), s.ints(0x0f0f_0f0f))
}

/// 32 bytes at `offset` of each row.
#[inline(always)]
fn load_rows_32<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize) -> [S::Ints; 8] {
    let [a, b, c, d] = s.load_rows(rows, offset);
    let [e, f, g, h] = s.load_rows(rows, offset + 16);
    [a, b, c, d, e, f, g, h]
}

/// Adds bit `i` of each word of `bits` to code `i` as its bit 4.
#[inline(always)]
fn add_fifth_bits<S: Simd>(s: S, mut codes: [S::Ints; 8], bits: S::Ints) -> [S::Ints; 8] {
    for (d, code) in codes.iter_mut().enumerate() {
        let four = s.and(s.shr(bits, 4 * d as u32), s.ints(15));
        // Copies of the 4 bits at 0, 7, 14 and 21 put bit i at 8i; no two copies overlap.
        let spread = s.and(s.mul_ints(four, s.ints(0x0020_4081)), s.ints(0x0101_0101));
        *code = s.or(*code, s.shl(spread, 4));
    }
    codes
}

pub(super) struct Q4_0;
impl Format for Q4_0 {
    const BLOCK_BYTES: usize = 18;
    const PANELS: usize = 1;
    type Kind = Biased;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        8
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let scale = s.load_halves(rows, offset);
        let codes = split_nibbles(s, s.load_rows(rows, offset + 2));
        sink.take(
            s,
            Panel {
                codes,
                scales: [scale; 2],
                mins: [s.floats(0.0); 2],
            },
        );
    }
}

pub(super) struct Q4_1;
impl Format for Q4_1 {
    const BLOCK_BYTES: usize = 20;
    const PANELS: usize = 1;
    type Kind = WithMin;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        0
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let head = s.load_words(rows, offset);
        let codes = split_nibbles(s, s.load_rows(rows, offset + 4));
        let min = s.low_halves(s.shr(head, 16));
        sink.take(
            s,
            Panel {
                codes,
                scales: [s.low_halves(head); 2],
                mins: [min; 2],
            },
        );
    }
}

pub(super) struct Q5_0;
impl Format for Q5_0 {
    const BLOCK_BYTES: usize = 22;
    const PANELS: usize = 1;
    type Kind = Biased;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        16
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let scale = s.load_halves(rows, offset);
        let bits = s.load_words(rows, offset + 2);
        let codes = split_nibbles(s, s.load_rows(rows, offset + 6));
        let codes = add_fifth_bits(s, codes, bits);
        sink.take(
            s,
            Panel {
                codes,
                scales: [scale; 2],
                mins: [s.floats(0.0); 2],
            },
        );
    }
}

pub(super) struct Q5_1;
impl Format for Q5_1 {
    const BLOCK_BYTES: usize = 24;
    const PANELS: usize = 1;
    type Kind = WithMin;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        0
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let head = s.load_words(rows, offset);
        let bits = s.load_words(rows, offset + 4);
        let codes = split_nibbles(s, s.load_rows(rows, offset + 8));
        let codes = add_fifth_bits(s, codes, bits);
        let min = s.low_halves(s.shr(head, 16));
        sink.take(
            s,
            Panel {
                codes,
                scales: [s.low_halves(head); 2],
                mins: [min; 2],
            },
        );
    }
}

pub(super) struct Q8_0;
impl Format for Q8_0 {
    const BLOCK_BYTES: usize = 34;
    const PANELS: usize = 1;
    type Kind = FromI8;

    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        S::I8_BIAS
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, rows: RowGroup<'_, S>, offset: usize, sink: &mut impl Sink<S>) {
        let scale = s.load_halves(rows, offset);
        let mut codes = load_rows_32(s, rows, offset + 2);
        for code in &mut codes {
            *code = s.codes_from_i8(*code);
        }
        sink.take(
            s,
            Panel {
                codes,
                scales: [scale; 2],
                mins: [s.floats(0.0); 2],
            },
        );
    }
}
