//! AVX2: 8 rows to a register, 16 lanes to two.

use std::arch::x86_64::*;

use super::{LANES, Op, RowGroup, Simd};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The only place that makes an `Avx2`.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Evaluates intrinsics that only compute, for the holder of an `Avx2`.
macro_rules! with {
    ($proof:ident, $expression:expr) => {{
        let Avx2(()) = $proof;
        // SAFETY: `$proof` exists only where `Avx2::detect` found the features, and the
        // expression touches no memory but through references of the size it needs.
        unsafe { $expression }
    }};
}

/// 16 lanes, the first 8 first.
type Pair = [__m256; 2];

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($proof:ident, $intrinsic:ident($($argument:ident),+)) => {
        with!($proof, [$intrinsic($($argument[0]),+), $intrinsic($($argument[1]),+)])
    };
}

impl Simd for Avx2 {
    const ROWS: usize = 8;
    const I8_BIAS: i32 = 0;
    type Ints = __m256i;
    type Floats = __m256;
    type Lanes = Pair;

    #[inline]
    fn vectorize<O: Op>(self, op: O) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<O: Op>(s: Avx2, op: O) {
            op.run(s);
        }
        // SAFETY: `self` exists only where `detect` found these features.
        unsafe { inner(self, op) }
    }

    #[inline(always)]
    fn ints(self, value: i32) -> __m256i {
        with!(self, _mm256_set1_epi32(value))
    }

    #[inline(always)]
    fn load_rows(self, rows: RowGroup<'_, Self>, offset: usize) -> [__m256i; 4] {
        let (first, stride) = (rows.pointer(offset, 16), rows.stride);
        let mut y = [self.ints(0); 4];
        for (j, y) in y.iter_mut().enumerate() {
            // SAFETY: `pointer` has checked that 16 bytes can be read at each of the 8 rows,
            // and `self` proves the features.
            *y = unsafe {
                let row = |r: usize| _mm_loadu_si128(first.add(r * stride).cast());
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(j)), row(4 + j))
            };
        }
        // Lane i of y[j] holds row 4i + j: a transposition within each lane sorts the rows.
        with!(self, {
            let low01 = _mm256_unpacklo_epi32(y[0], y[1]);
            let low23 = _mm256_unpacklo_epi32(y[2], y[3]);
            let high01 = _mm256_unpackhi_epi32(y[0], y[1]);
            let high23 = _mm256_unpackhi_epi32(y[2], y[3]);
            [
                _mm256_unpacklo_epi64(low01, low23),
                _mm256_unpackhi_epi64(low01, low23),
                _mm256_unpacklo_epi64(high01, high23),
                _mm256_unpackhi_epi64(high01, high23),
            ]
        })
    }

    #[inline(always)]
    fn load_words(self, rows: RowGroup<'_, Self>, offset: usize) -> __m256i {
        let (first, stride) = (rows.pointer(offset, 4), rows.stride);
        // SAFETY: `pointer` has checked that 4 bytes can be read at each of the 8 rows.
        unsafe {
            let row = |r: usize| first.add(r * stride).cast::<i32>().read_unaligned();
            let four = |r: usize| _mm_setr_epi32(row(r), row(r + 1), row(r + 2), row(r + 3));
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four(0)), four(4))
        }
    }

    #[inline(always)]
    fn load_halves(self, rows: RowGroup<'_, Self>, offset: usize) -> __m256 {
        let (first, stride) = (rows.pointer(offset, 2), rows.stride);
        // SAFETY: `pointer` has checked that 2 bytes can be read at each of the 8 rows.
        unsafe {
            let row = |r: usize| first.add(r * stride).cast::<i16>().read_unaligned();
            _mm256_cvtph_ps(_mm_setr_epi16(
                row(0),
                row(1),
                row(2),
                row(3),
                row(4),
                row(5),
                row(6),
                row(7),
            ))
        }
    }

    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        with!(self, _mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        with!(self, _mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn mul_ints(self, a: __m256i, b: __m256i) -> __m256i {
        with!(self, _mm256_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn shl(self, a: __m256i, bits: u32) -> __m256i {
        with!(
            self,
            _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits.cast_signed()))
        )
    }

    #[inline(always)]
    fn shr(self, a: __m256i, bits: u32) -> __m256i {
        with!(
            self,
            _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits.cast_signed()))
        )
    }

    #[inline(always)]
    fn dot_u8(self, acc: __m256i, a: __m256i, x: i32) -> __m256i {
        // Sums of two products of codes below 128 fit 16 bits.
        with!(self, {
            let pairs = _mm256_maddubs_epi16(a, _mm256_set1_epi32(x));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    #[inline(always)]
    fn codes_from_i8(self, a: __m256i) -> __m256i {
        a
    }

    #[inline(always)]
    fn dot_i8(self, acc: __m256i, a: __m256i, x: i32) -> __m256i {
        // |a| * (x with a's sign): at most 128 * 127 each, so that two of them fit 16 bits.
        with!(self, {
            let x = _mm256_sign_epi8(_mm256_set1_epi32(x), a);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), x);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    #[inline(always)]
    fn to_floats(self, a: __m256i) -> __m256 {
        with!(self, _mm256_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn low_halves(self, a: __m256i) -> __m256 {
        with!(self, {
            let a = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            let (low, high) = (_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            _mm256_cvtph_ps(_mm_packus_epi32(low, high))
        })
    }

    #[inline(always)]
    fn floats(self, value: f32) -> __m256 {
        with!(self, _mm256_set1_ps(value))
    }

    #[inline(always)]
    fn mul_floats(self, a: __m256, b: __m256) -> __m256 {
        with!(self, _mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma_floats(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        with!(self, _mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn floats_to_array(self, a: __m256) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        with!(self, _mm256_storeu_ps(array.as_mut_ptr(), a));
        array
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        with!(self, [_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Pair {
        let first = values.as_ptr();
        with!(
            self,
            [_mm256_loadu_ps(first), _mm256_loadu_ps(first.add(8))]
        )
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Pair {
        let first = bytes.as_ptr().cast::<f32>();
        with!(
            self,
            [_mm256_loadu_ps(first), _mm256_loadu_ps(first.add(8))]
        )
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> Pair {
        let first = bytes.as_ptr().cast::<__m128i>();
        with!(
            self,
            [
                _mm256_cvtph_ps(_mm_loadu_si128(first)),
                _mm256_cvtph_ps(_mm_loadu_si128(first.add(1)))
            ]
        )
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 2 * LANES]) -> Pair {
        let first = bytes.as_ptr().cast::<__m128i>();
        with!(self, {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(first));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(first.add(1)));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        })
    }

    #[inline(always)]
    fn store(self, a: Pair, out: &mut [f32; LANES]) {
        let first = out.as_mut_ptr();
        with!(self, {
            _mm256_storeu_ps(first, a[0]);
            _mm256_storeu_ps(first.add(8), a[1]);
        });
    }

    #[inline(always)]
    fn low_bytes(self, a: Pair) -> [i8; LANES] {
        let mut values = [0.0; LANES];
        self.store(a, &mut values);
        values.map(|value| value.to_bits().to_le_bytes()[0].cast_signed())
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        both!(self, _mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        both!(self, _mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        both!(self, _mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        both!(self, _mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        both!(self, _mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        both!(self, _mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        both!(self, _mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn zero_if_less(self, a: Pair, b: Pair, value: Pair) -> Pair {
        with!(
            self,
            [
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), value[0]),
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]), value[1])
            ]
        )
    }

    #[inline(always)]
    fn pow2_of_shifted(self, a: Pair) -> Pair {
        with!(self, {
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_castps_si256(a[0]), bias);
            let high = _mm256_add_epi32(_mm256_castps_si256(a[1]), bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        })
    }

    #[inline(always)]
    fn sum(self, a: Pair) -> f32 {
        with!(self, {
            let a = _mm256_add_ps(a[0], a[1]);
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        })
    }

    #[inline(always)]
    fn largest(self, a: Pair) -> f32 {
        with!(self, {
            let a = _mm256_max_ps(a[0], a[1]);
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        })
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // A prefetch reads nothing that the program could see, and never faults.
        with!(self, _mm_prefetch::<_MM_HINT_T1>(address.cast()));
    }
}
