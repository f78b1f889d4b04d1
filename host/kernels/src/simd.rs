//! What the kernels ask of a machine, and the machines that answer.
//!
//! A kernel is an [`Op`], written once over [`Simd`]; [`Isa::run`] compiles it for each
//! instruction set and picks at run time. All implementations give the same bits: integer
//! sums are exact, floating-point sums have a fixed order of fixed lanes, and every multiply-add
//! rounds once.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::OnceLock;

pub(crate) use math::{ROUND, exp, tanh};
pub(crate) use portable::Portable;

#[cfg(target_arch = "aarch64")]
use self::neon::Neon;
#[cfg(target_arch = "x86_64")]
use self::{avx2::Avx2, avx512::Avx512};
use crate::error::KernelError;

/// Elements of [`Simd::Lanes`].
pub(crate) const LANES: usize = 16;

/// A kernel, to be compiled for each instruction set.
pub(crate) trait Op {
    /// Must be `#[inline(always)]`, as everything that it calls with `s`: only code inlined
    /// into [`Simd::vectorize`] is compiled with the instruction set's features.
    fn run<S: Simd>(self, s: S);
}

/// An instruction set. Its value is the proof that the machine has it.
///
/// Three kinds of vectors: `Ints` and `Floats` hold one 32-bit element for each of
/// [`ROWS`](Self::ROWS) rows of a weight matrix; `Lanes` holds [`LANES`] consecutive f32.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Rows of weights that are worked on side by side.
    const ROWS: usize;
    /// What [`codes_from_i8`](Self::codes_from_i8) adds to each code.
    const I8_BIAS: i32;
    /// A word for each row: a number, or 4 codes.
    type Ints: Copy;
    /// An f32 for each row.
    type Floats: Copy;
    /// 16 f32.
    type Lanes: Copy;

    /// Runs `op`, compiled with this instruction set's features.
    fn vectorize<O: Op>(self, op: O);

    // Ints.

    /// The same word for every row.
    fn ints(self, value: i32) -> Self::Ints;
    /// 16 bytes at `offset` of each row, as 4 words.
    fn load_rows(self, rows: RowGroup<'_, Self>, offset: usize) -> [Self::Ints; 4];
    /// The word at `offset` of each row.
    fn load_words(self, rows: RowGroup<'_, Self>, offset: usize) -> Self::Ints;
    /// The f16 at `offset` of each row.
    fn load_halves(self, rows: RowGroup<'_, Self>, offset: usize) -> Self::Floats;
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Low words of the products.
    fn mul_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `a << bits`, `bits < 32`.
    fn shl(self, a: Self::Ints, bits: u32) -> Self::Ints;
    /// `a >> bits` of unsigned words, `bits < 32`.
    fn shr(self, a: Self::Ints, bits: u32) -> Self::Ints;
    /// `acc + a0 x0 + a1 x1 + a2 x2 + a3 x3` with codes `a` in `0..64` and the 4 signed bytes
    /// of `x`, none of them -128.
    fn dot_u8(self, acc: Self::Ints, a: Self::Ints, x: i32) -> Self::Ints;
    /// Signed bytes as the codes that [`dot_i8`](Self::dot_i8) takes.
    fn codes_from_i8(self, a: Self::Ints) -> Self::Ints;
    /// As [`dot_u8`](Self::dot_u8), with codes made by [`codes_from_i8`](Self::codes_from_i8).
    fn dot_i8(self, acc: Self::Ints, a: Self::Ints, x: i32) -> Self::Ints;
    /// Signed words as numbers.
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// The f16 in the low half of each word.
    fn low_halves(self, a: Self::Ints) -> Self::Floats;

    // Floats.

    /// The same number for every row.
    fn floats(self, value: f32) -> Self::Floats;
    fn mul_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma_floats(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The first [`ROWS`](Self::ROWS) elements of the result.
    fn floats_to_array(self, a: Self::Floats) -> [f32; LANES];

    // Lanes.

    /// The same number in every lane.
    fn splat(self, value: f32) -> Self::Lanes;
    fn load(self, values: &[f32; LANES]) -> Self::Lanes;
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Lanes;
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Lanes;
    fn load_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Lanes;
    fn store(self, a: Self::Lanes, out: &mut [f32; LANES]);
    /// The low byte of each lane's bits.
    fn low_bytes(self, a: Self::Lanes) -> [i8; LANES];
    fn add(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    fn sub(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    fn mul(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    fn div(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes;
    /// `if a > b { a } else { b }`: `b` where one is NaN.
    fn max(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `if a < b { a } else { b }`: `b` where one is NaN.
    fn min(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `if a < b { 0 } else { value }`.
    fn zero_if_less(self, a: Self::Lanes, b: Self::Lanes, value: Self::Lanes) -> Self::Lanes;
    /// `2^k` from `k + 1.5 * 2^23`, `k` a whole number in `-126..=127`.
    fn pow2_of_shifted(self, a: Self::Lanes) -> Self::Lanes;
    /// Lanes `i` and `i + 8` are added first, then `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, a: Self::Lanes) -> f32;
    /// The largest, by [`max`](Self::max) in the order of [`sum`](Self::sum).
    fn largest(self, a: Self::Lanes) -> f32;

    /// Asks for the cache line at `address`, which may be any, for the second-level cache.
    fn prefetch(self, address: *const u8);

    /// Up to 16 values, zeros behind them.
    #[inline(always)]
    fn load_partial(self, values: &[f32]) -> Self::Lanes {
        let mut padded = [0.0; LANES];
        padded[..values.len()].copy_from_slice(values);
        self.load(&padded)
    }

    /// The first `out.len()` lanes, up to 16.
    #[inline(always)]
    fn store_partial(self, a: Self::Lanes, out: &mut [f32]) {
        let mut values = [0.0; LANES];
        self.store(a, &mut values);
        out.copy_from_slice(&values[..out.len()]);
    }
}

/// [`Simd::ROWS`] consecutive rows of a weight matrix.
pub(crate) struct RowGroup<'a, S> {
    bytes: &'a [u8],
    stride: usize,
    rows: PhantomData<S>,
}

impl<S> Clone for RowGroup<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for RowGroup<'_, S> {}

impl<'a, S: Simd> RowGroup<'a, S> {
    /// The rows of `bytes`, each of `stride` bytes.
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8], stride: usize) -> Self {
        assert_eq!(bytes.len(), S::ROWS * stride, "a group has whole rows");
        Self {
            bytes,
            stride,
            rows: PhantomData,
        }
    }

    /// Where byte `offset` of the first row is; that of row `r < ROWS` is `r * stride` further,
    /// and `length` bytes can be read at each.
    #[inline(always)]
    fn pointer(self, offset: usize, length: usize) -> *const u8 {
        assert!(offset + length <= self.stride, "a read ends within its row");
        self.bytes.as_ptr().wrapping_add(offset)
    }
}

/// Decided once, by the first kernel or by [`limit_instruction_set`].
static BEST: OnceLock<Isa> = OnceLock::new();

/// Makes this process compute with the instruction set called `name`: `portable`, `avx2` or
/// `avx512` on x86-64, `portable`, `neon` or `neon-dotprod` on 64-bit ARM. For measuring what
/// machines without the better ones get; results are the same.
///
/// # Errors
/// [`KernelError::InstructionSet`] if this machine has no such set, or a kernel has run before.
pub fn limit_instruction_set(name: &str) -> Result<(), KernelError> {
    let available = Isa::available();
    let found = available.iter().find(|isa| isa.name() == name);
    let set = found.is_some_and(|isa| BEST.set(*isa).is_ok());
    set.then_some(())
        .ok_or_else(|| KernelError::InstructionSet {
            name: name.to_owned(),
            available: available.iter().map(|isa| isa.name()).collect(),
        })
}

/// An instruction set that this machine has.
#[derive(Clone, Copy)]
pub(crate) enum Isa {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<false>),
    #[cfg(target_arch = "aarch64")]
    NeonDotprod(Neon<true>),
}

impl Isa {
    /// The best that this machine has, or that [`limit_instruction_set`] leaves.
    pub(crate) fn best() -> Self {
        *BEST.get_or_init(|| {
            Isa::available()
                .pop()
                .expect("the portable instruction set is always available")
        })
    }

    /// All that this machine has, the best last.
    pub(crate) fn available() -> Vec<Self> {
        let available = std::iter::once(Self::Portable(Portable));
        #[cfg(target_arch = "x86_64")]
        let available = available
            .chain(Avx2::detect().map(Self::Avx2))
            .chain(Avx512::detect().map(Self::Avx512));
        #[cfg(target_arch = "aarch64")]
        let available = available
            .chain(Neon::<false>::detect().map(Self::Neon))
            .chain(Neon::<true>::detect().map(Self::NeonDotprod));
        available.collect()
    }

    /// Runs `op` on it.
    pub(crate) fn run<O: Op>(self, op: O) {
        match self {
            Self::Portable(s) => s.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(s) => s.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(s) => s.vectorize(op),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(s) => s.vectorize(op),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod(s) => s.vectorize(op),
        }
    }

    /// As [`limit_instruction_set`] takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod(_) => "neon-dotprod",
        }
    }

    /// Rows that it works on side by side.
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Portable(_) => Portable::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::ROWS,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => Neon::<false>::ROWS,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod(_) => Neon::<true>::ROWS,
        }
    }
}
