//! AVX-512 with VNNI: 16 rows or 16 lanes to a register.

use std::arch::x86_64::*;

use super::{LANES, Op, RowGroup, Simd};

/// AVX-512 F, BW, VL and VNNI, beside AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The only place that makes an `Avx512`.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Evaluates intrinsics that only compute, for the holder of an `Avx512`.
macro_rules! with {
    ($proof:ident, $expression:expr) => {{
        let Avx512(()) = $proof;
        // SAFETY: `$proof` exists only where `Avx512::detect` found the features, and the
        // expression touches no memory but through references of the size it needs.
        unsafe { $expression }
    }};
}

impl Simd for Avx512 {
    const ROWS: usize = 16;
    const I8_BIAS: i32 = 128;
    type Ints = __m512i;
    type Floats = __m512;
    type Lanes = __m512;

    #[inline]
    fn vectorize<O: Op>(self, op: O) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn inner<O: Op>(s: Avx512, op: O) {
            op.run(s);
        }
        // SAFETY: `self` exists only where `detect` found these features.
        unsafe { inner(self, op) }
    }

    #[inline(always)]
    fn ints(self, value: i32) -> __m512i {
        with!(self, _mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn load_rows(self, rows: RowGroup<'_, Self>, offset: usize) -> [__m512i; 4] {
        let (first, stride) = (rows.pointer(offset, 16), rows.stride);
        let mut z = [self.ints(0); 4];
        for (j, z) in z.iter_mut().enumerate() {
            // SAFETY: `pointer` has checked that 16 bytes can be read at each of the 16 rows,
            // and `self` proves the features.
            *z = unsafe {
                let row = |r: usize| _mm_loadu_si128(first.add(r * stride).cast());
                let low = _mm256_castsi128_si256(row(j));
                let low = _mm256_inserti128_si256::<1>(low, row(4 + j));
                let high = _mm256_castsi128_si256(row(8 + j));
                let high = _mm256_inserti128_si256::<1>(high, row(12 + j));
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            };
        }
        // Lane i of z[j] holds row 4i + j: a transposition within each lane sorts the rows.
        with!(self, {
            let low01 = _mm512_unpacklo_epi32(z[0], z[1]);
            let low23 = _mm512_unpacklo_epi32(z[2], z[3]);
            let high01 = _mm512_unpackhi_epi32(z[0], z[1]);
            let high23 = _mm512_unpackhi_epi32(z[2], z[3]);
            [
                _mm512_unpacklo_epi64(low01, low23),
                _mm512_unpackhi_epi64(low01, low23),
                _mm512_unpacklo_epi64(high01, high23),
                _mm512_unpackhi_epi64(high01, high23),
            ]
        })
    }

    #[inline(always)]
    fn load_words(self, rows: RowGroup<'_, Self>, offset: usize) -> __m512i {
        let (first, stride) = (rows.pointer(offset, 4), rows.stride);
        // SAFETY: `pointer` has checked that 4 bytes can be read at each of the 16 rows.
        unsafe {
            let row = |r: usize| first.add(r * stride).cast::<i32>().read_unaligned();
            let four = |r: usize| _mm_setr_epi32(row(r), row(r + 1), row(r + 2), row(r + 3));
            let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four(0)), four(4));
            let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four(8)), four(12));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    #[inline(always)]
    fn load_halves(self, rows: RowGroup<'_, Self>, offset: usize) -> __m512 {
        let (first, stride) = (rows.pointer(offset, 2), rows.stride);
        // SAFETY: `pointer` has checked that 2 bytes can be read at each of the 16 rows.
        unsafe {
            let row = |r: usize| first.add(r * stride).cast::<i16>().read_unaligned();
            let eight = |r: usize| {
                _mm_setr_epi16(
                    row(r),
                    row(r + 1),
                    row(r + 2),
                    row(r + 3),
                    row(r + 4),
                    row(r + 5),
                    row(r + 6),
                    row(r + 7),
                )
            };
            let low = _mm256_castsi128_si256(eight(0));
            _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(low, eight(8)))
        }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        with!(self, _mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        with!(self, _mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn mul_ints(self, a: __m512i, b: __m512i) -> __m512i {
        with!(self, _mm512_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn shl(self, a: __m512i, bits: u32) -> __m512i {
        with!(
            self,
            _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits.cast_signed()))
        )
    }

    #[inline(always)]
    fn shr(self, a: __m512i, bits: u32) -> __m512i {
        with!(
            self,
            _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits.cast_signed()))
        )
    }

    #[inline(always)]
    fn dot_u8(self, acc: __m512i, a: __m512i, x: i32) -> __m512i {
        with!(self, _mm512_dpbusd_epi32(acc, a, _mm512_set1_epi32(x)))
    }

    #[inline(always)]
    fn codes_from_i8(self, a: __m512i) -> __m512i {
        with!(self, _mm512_xor_si512(a, _mm512_set1_epi8(-128)))
    }

    #[inline(always)]
    fn dot_i8(self, acc: __m512i, a: __m512i, x: i32) -> __m512i {
        self.dot_u8(acc, a, x)
    }

    #[inline(always)]
    fn to_floats(self, a: __m512i) -> __m512 {
        with!(self, _mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn low_halves(self, a: __m512i) -> __m512 {
        with!(self, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)))
    }

    #[inline(always)]
    fn floats(self, value: f32) -> __m512 {
        with!(self, _mm512_set1_ps(value))
    }

    #[inline(always)]
    fn mul_floats(self, a: __m512, b: __m512) -> __m512 {
        self.mul(a, b)
    }

    #[inline(always)]
    fn fma_floats(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        self.fma(a, b, c)
    }

    #[inline(always)]
    fn floats_to_array(self, a: __m512) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        self.store(a, &mut array);
        array
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        with!(self, _mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        with!(self, _mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> __m512 {
        with!(self, _mm512_loadu_ps(bytes.as_ptr().cast()))
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        with!(
            self,
            _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast()))
        )
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        with!(self, {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        })
    }

    #[inline(always)]
    fn store(self, a: __m512, out: &mut [f32; LANES]) {
        with!(self, _mm512_storeu_ps(out.as_mut_ptr(), a));
    }

    #[inline(always)]
    fn low_bytes(self, a: __m512) -> [i8; LANES] {
        let mut bytes = [0; LANES];
        with!(self, {
            let low = _mm512_cvtepi32_epi8(_mm512_castps_si512(a));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), low);
        });
        bytes
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        with!(self, _mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        with!(self, _mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        with!(self, _mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        with!(self, _mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        with!(self, _mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        with!(self, _mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        with!(self, _mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn zero_if_less(self, a: __m512, b: __m512, value: __m512) -> __m512 {
        with!(self, {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
            _mm512_mask_mov_ps(value, less, _mm512_setzero_ps())
        })
    }

    #[inline(always)]
    fn pow2_of_shifted(self, a: __m512) -> __m512 {
        with!(self, {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        with!(self, {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a)));
            let a = _mm256_add_ps(_mm512_castps512_ps256(a), high);
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        })
    }

    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        with!(self, {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a)));
            let a = _mm256_max_ps(_mm512_castps512_ps256(a), high);
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
