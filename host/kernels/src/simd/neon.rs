//! NEON: 8 rows to two registers, 16 lanes to four.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{LANES, Op, RowGroup, Simd};

/// NEON, which every 64-bit ARM processor has, and with `DOTPROD` the integer dot product that
/// came with Armv8.2.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOTPROD: bool>(());

/// The order of bytes in registers is that of little-endian memory throughout this file.
const LITTLE_ENDIAN: bool = cfg!(target_endian = "little");

impl Neon<false> {
    /// The only place that makes a `Neon<false>`.
    pub(super) fn detect() -> Option<Self> {
        let found = LITTLE_ENDIAN && std::arch::is_aarch64_feature_detected!("neon");
        found.then_some(Self(()))
    }
}

impl Neon<true> {
    /// The only place that makes a `Neon<true>`.
    pub(super) fn detect() -> Option<Self> {
        let found = LITTLE_ENDIAN
            && std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod");
        found.then_some(Self(()))
    }
}

/// Evaluates intrinsics that only compute, for the holder of a `Neon`.
macro_rules! with {
    ($proof:ident, $expression:expr) => {{
        let Neon::<DOTPROD>(()) = $proof;
        // SAFETY: `$proof` exists only where `detect` found NEON, and the expression touches no
        // memory but through references of the size it needs.
        unsafe { $expression }
    }};
}

/// Words or numbers of 8 rows, the first 4 first.
type Pair<T> = [T; 2];

/// 16 lanes, 4 to a register, in order.
type Quad = [float32x4_t; 4];

/// Applies an intrinsic to both registers of a pair.
macro_rules! both {
    ($proof:ident, $intrinsic:ident($($argument:ident),+)) => {
        with!($proof, [$intrinsic($($argument[0]),+), $intrinsic($($argument[1]),+)])
    };
}

/// Applies an intrinsic to all four registers.
macro_rules! all {
    ($proof:ident, $intrinsic:ident($($argument:ident),+)) => {
        with!(
            $proof,
            [
                $intrinsic($($argument[0]),+),
                $intrinsic($($argument[1]),+),
                $intrinsic($($argument[2]),+),
                $intrinsic($($argument[3]),+),
            ]
        )
    };
}

impl<const DOTPROD: bool> Neon<DOTPROD> {
    /// `acc` plus the dot products of the 4 signed bytes of each word with those of `x`. Two
    /// products of neighbours must fit 16 bits together: the bytes of `x` are not -128.
    #[inline(always)]
    fn dot(self, acc: uint32x4_t, a: uint32x4_t, x: i32) -> uint32x4_t {
        let Neon(()) = self;
        if DOTPROD {
            let mut sum = acc;
            // The intrinsic `vdotq_s32` is not stable.
            // SAFETY: `self` exists only where `detect` found the instruction, which does
            // nothing but write `sum`; `vdupq_n_s32` is NEON, which was found too.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {a:v}.16b, {x:v}.16b",
                    sum = inout(vreg) sum,
                    a = in(vreg) a,
                    x = in(vreg) vdupq_n_s32(x),
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            return sum;
        }
        with!(self, {
            let (a, x) = (
                vreinterpretq_s8_u32(a),
                vreinterpretq_s8_s32(vdupq_n_s32(x)),
            );
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(x));
            let high = vmull_high_s8(a, x);
            // At most 2 * 128 * 127 in size.
            let pairs = vpaddq_s16(low, high);
            vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(acc), pairs))
        })
    }

    /// `if a > b { a } else { b }`. NEON's own maximum is NaN where one is.
    #[inline(always)]
    fn larger(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        with!(self, vbslq_f32(vcgtq_f32(a, b), a, b))
    }

    /// 4 f16 as f32.
    #[inline(always)]
    fn widen(self, halves: uint16x4_t) -> float32x4_t {
        with!(self, vcvt_f32_f16(vreinterpret_f16_u16(halves)))
    }
}

impl<const DOTPROD: bool> Simd for Neon<DOTPROD> {
    // With 6 tokens, 8 rows take 24 of the 32 registers: 12 for sums of integers, 12 of floats.
    const ROWS: usize = 8;
    const I8_BIAS: i32 = 0;
    type Ints = Pair<uint32x4_t>;
    type Floats = Pair<float32x4_t>;
    type Lanes = Quad;

    #[inline]
    fn vectorize<O: Op>(self, op: O) {
        #[target_feature(enable = "neon")]
        fn plain<S: Simd, O: Op>(s: S, op: O) {
            op.run(s);
        }
        #[target_feature(enable = "neon,dotprod")]
        fn with_dotprod<S: Simd, O: Op>(s: S, op: O) {
            op.run(s);
        }
        // SAFETY: `self` exists only where `detect` found these features.
        unsafe {
            if DOTPROD {
                with_dotprod(self, op);
            } else {
                plain(self, op);
            }
        }
    }

    #[inline(always)]
    fn ints(self, value: i32) -> Self::Ints {
        with!(self, [vdupq_n_u32(value.cast_unsigned()); 2])
    }

    #[inline(always)]
    fn load_rows(self, rows: RowGroup<'_, Self>, offset: usize) -> [Self::Ints; 4] {
        let (first, stride) = (rows.pointer(offset, 16), rows.stride);
        let [low, high] = [0, 4].map(|r| {
            // SAFETY: `pointer` has checked that 16 bytes can be read at each of the 8 rows,
            // and `self` proves NEON. A load of bytes needs no alignment.
            let y: [uint32x4_t; 4] = std::array::from_fn(|j| unsafe {
                vreinterpretq_u32_u8(vld1q_u8(first.add((r + j) * stride)))
            });
            // A row to a register becomes a word to a register.
            with!(self, {
                let even01 = vreinterpretq_u64_u32(vtrn1q_u32(y[0], y[1]));
                let odd01 = vreinterpretq_u64_u32(vtrn2q_u32(y[0], y[1]));
                let even23 = vreinterpretq_u64_u32(vtrn1q_u32(y[2], y[3]));
                let odd23 = vreinterpretq_u64_u32(vtrn2q_u32(y[2], y[3]));
                [
                    vreinterpretq_u32_u64(vzip1q_u64(even01, even23)),
                    vreinterpretq_u32_u64(vzip1q_u64(odd01, odd23)),
                    vreinterpretq_u32_u64(vzip2q_u64(even01, even23)),
                    vreinterpretq_u32_u64(vzip2q_u64(odd01, odd23)),
                ]
            })
        });
        std::array::from_fn(|word| [low[word], high[word]])
    }

    #[inline(always)]
    fn load_words(self, rows: RowGroup<'_, Self>, offset: usize) -> Self::Ints {
        let (first, stride) = (rows.pointer(offset, 4), rows.stride);
        // SAFETY: `pointer` has checked that 4 bytes can be read at each of the 8 rows.
        let row = |r: usize| unsafe { first.add(r * stride).cast::<u32>().read_unaligned() };
        let words: [u32; 8] = std::array::from_fn(row);
        let words = words.as_ptr();
        with!(self, [vld1q_u32(words), vld1q_u32(words.add(4))])
    }

    #[inline(always)]
    fn load_halves(self, rows: RowGroup<'_, Self>, offset: usize) -> Self::Floats {
        let (first, stride) = (rows.pointer(offset, 2), rows.stride);
        // SAFETY: `pointer` has checked that 2 bytes can be read at each of the 8 rows.
        let row = |r: usize| unsafe { first.add(r * stride).cast::<u16>().read_unaligned() };
        let halves: [u16; 8] = std::array::from_fn(row);
        let halves = with!(self, vld1q_u16(halves.as_ptr()));
        with!(
            self,
            [
                self.widen(vget_low_u16(halves)),
                self.widen(vget_high_u16(halves))
            ]
        )
    }

    #[inline(always)]
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        both!(self, vandq_u32(a, b))
    }

    #[inline(always)]
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        both!(self, vorrq_u32(a, b))
    }

    #[inline(always)]
    fn mul_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        both!(self, vmulq_u32(a, b))
    }

    #[inline(always)]
    fn shl(self, a: Self::Ints, bits: u32) -> Self::Ints {
        let by = with!(self, [vdupq_n_s32(bits.cast_signed()); 2]);
        both!(self, vshlq_u32(a, by))
    }

    #[inline(always)]
    fn shr(self, a: Self::Ints, bits: u32) -> Self::Ints {
        // To the left by less than nothing.
        let by = with!(self, [vdupq_n_s32(-bits.cast_signed()); 2]);
        both!(self, vshlq_u32(a, by))
    }

    #[inline(always)]
    fn dot_u8(self, acc: Self::Ints, a: Self::Ints, x: i32) -> Self::Ints {
        // Codes below 64 are signed bytes too.
        self.dot_i8(acc, a, x)
    }

    #[inline(always)]
    fn codes_from_i8(self, a: Self::Ints) -> Self::Ints {
        a
    }

    #[inline(always)]
    fn dot_i8(self, acc: Self::Ints, a: Self::Ints, x: i32) -> Self::Ints {
        [self.dot(acc[0], a[0], x), self.dot(acc[1], a[1], x)]
    }

    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        let a = both!(self, vreinterpretq_s32_u32(a));
        both!(self, vcvtq_f32_s32(a))
    }

    #[inline(always)]
    fn low_halves(self, a: Self::Ints) -> Self::Floats {
        let halves = both!(self, vmovn_u32(a));
        [self.widen(halves[0]), self.widen(halves[1])]
    }

    #[inline(always)]
    fn floats(self, value: f32) -> Self::Floats {
        with!(self, [vdupq_n_f32(value); 2])
    }

    #[inline(always)]
    fn mul_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        both!(self, vmulq_f32(a, b))
    }

    #[inline(always)]
    fn fma_floats(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        both!(self, vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn floats_to_array(self, a: Self::Floats) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        let first = array.as_mut_ptr();
        with!(self, {
            vst1q_f32(first, a[0]);
            vst1q_f32(first.add(4), a[1]);
        });
        array
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Quad {
        with!(self, [vdupq_n_f32(value); 4])
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Quad {
        let first = values.as_ptr();
        with!(
            self,
            [
                vld1q_f32(first),
                vld1q_f32(first.add(4)),
                vld1q_f32(first.add(8)),
                vld1q_f32(first.add(12))
            ]
        )
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Quad {
        // Loads of bytes, which need no alignment.
        let first = bytes.as_ptr();
        with!(
            self,
            [
                vreinterpretq_f32_u8(vld1q_u8(first)),
                vreinterpretq_f32_u8(vld1q_u8(first.add(16))),
                vreinterpretq_f32_u8(vld1q_u8(first.add(32))),
                vreinterpretq_f32_u8(vld1q_u8(first.add(48)))
            ]
        )
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> Quad {
        let first = bytes.as_ptr();
        with!(self, {
            let low = vreinterpretq_u16_u8(vld1q_u8(first));
            let high = vreinterpretq_u16_u8(vld1q_u8(first.add(16)));
            [
                self.widen(vget_low_u16(low)),
                self.widen(vget_high_u16(low)),
                self.widen(vget_low_u16(high)),
                self.widen(vget_high_u16(high)),
            ]
        })
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 2 * LANES]) -> Quad {
        let first = bytes.as_ptr();
        with!(self, {
            let low = vreinterpretq_u16_u8(vld1q_u8(first));
            let high = vreinterpretq_u16_u8(vld1q_u8(first.add(16)));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(low))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(low)),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(high))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(high)),
            ]
        })
    }

    #[inline(always)]
    fn store(self, a: Quad, out: &mut [f32; LANES]) {
        let first = out.as_mut_ptr();
        with!(self, {
            vst1q_f32(first, a[0]);
            vst1q_f32(first.add(4), a[1]);
            vst1q_f32(first.add(8), a[2]);
            vst1q_f32(first.add(12), a[3]);
        });
    }

    #[inline(always)]
    fn low_bytes(self, a: Quad) -> [i8; LANES] {
        let mut bytes = [0; LANES];
        // The even halves of words are their low ones, and so with the bytes of halves.
        with!(self, {
            let low = vuzp1q_u16(vreinterpretq_u16_f32(a[0]), vreinterpretq_u16_f32(a[1]));
            let high = vuzp1q_u16(vreinterpretq_u16_f32(a[2]), vreinterpretq_u16_f32(a[3]));
            let low_bytes = vuzp1q_s8(vreinterpretq_s8_u16(low), vreinterpretq_s8_u16(high));
            vst1q_s8(bytes.as_mut_ptr(), low_bytes);
        });
        bytes
    }

    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        all!(self, vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        all!(self, vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        all!(self, vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        all!(self, vdivq_f32(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Quad, b: Quad, c: Quad) -> Quad {
        all!(self, vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn max(self, a: Quad, b: Quad) -> Quad {
        std::array::from_fn(|i| self.larger(a[i], b[i]))
    }

    #[inline(always)]
    fn min(self, a: Quad, b: Quad) -> Quad {
        let less = all!(self, vcltq_f32(a, b));
        all!(self, vbslq_f32(less, a, b))
    }

    #[inline(always)]
    fn zero_if_less(self, a: Quad, b: Quad, value: Quad) -> Quad {
        let less = all!(self, vcltq_f32(a, b));
        let bits = all!(self, vreinterpretq_u32_f32(value));
        let kept = all!(self, vbicq_u32(bits, less));
        all!(self, vreinterpretq_f32_u32(kept))
    }

    #[inline(always)]
    fn pow2_of_shifted(self, a: Quad) -> Quad {
        let bias = with!(self, [vdupq_n_u32(127); 4]);
        let bits = all!(self, vreinterpretq_u32_f32(a));
        let biased = all!(self, vaddq_u32(bits, bias));
        let shifted = with!(self, biased.map(|biased| vshlq_n_u32::<23>(biased)));
        all!(self, vreinterpretq_f32_u32(shifted))
    }

    #[inline(always)]
    fn sum(self, a: Quad) -> f32 {
        with!(self, {
            let a = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let a = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(a) + vget_lane_f32::<1>(a)
        })
    }

    #[inline(always)]
    fn largest(self, a: Quad) -> f32 {
        let a = self.larger(self.larger(a[0], a[2]), self.larger(a[1], a[3]));
        with!(self, {
            let (low, high) = (vget_low_f32(a), vget_high_f32(a));
            let a = vbsl_f32(vcgt_f32(low, high), low, high);
            let (even, odd) = (vget_lane_f32::<0>(a), vget_lane_f32::<1>(a));
            if even > odd { even } else { odd }
        })
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // The intrinsic `_prefetch` is not stable.
        // SAFETY: a prefetch reads nothing that the program could see, and never faults.
        unsafe {
            asm!(
                "prfm pldl2keep, [{address}]",
                address = in(reg) address,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}
