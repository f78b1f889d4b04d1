//! Arrays and loops, for machines without an implementation of their own.

use half::{bf16, f16};

use super::{LANES, Op, RowGroup, Simd};

/// Any machine.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Rows side by side: what two NEON registers hold.
const ROWS: usize = 8;

#[inline(always)]
fn map2<T: Copy, const N: usize>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> T) -> [T; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Byte `i` of row `r`.
#[inline(always)]
fn bytes<const N: usize>(rows: RowGroup<'_, Portable>, row: usize, offset: usize) -> [u8; N] {
    let start = row * rows.stride + offset;
    rows.bytes[start..start + N]
        .try_into()
        .expect("the slice has N bytes")
}

#[inline(always)]
fn reduce(mut a: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            a[i] = f(a[i], a[i + width]);
        }
    }
    a[0]
}

impl Simd for Portable {
    const ROWS: usize = ROWS;
    const I8_BIAS: i32 = 0;
    type Ints = [u32; ROWS];
    type Floats = [f32; ROWS];
    type Lanes = [f32; LANES];

    fn vectorize<O: Op>(self, op: O) {
        op.run(self);
    }

    #[inline(always)]
    fn ints(self, value: i32) -> Self::Ints {
        [value.cast_unsigned(); ROWS]
    }

    #[inline(always)]
    fn load_rows(self, rows: RowGroup<'_, Self>, offset: usize) -> [Self::Ints; 4] {
        std::array::from_fn(|word| self.load_words(rows, offset + 4 * word))
    }

    #[inline(always)]
    fn load_words(self, rows: RowGroup<'_, Self>, offset: usize) -> Self::Ints {
        std::array::from_fn(|row| u32::from_le_bytes(bytes(rows, row, offset)))
    }

    #[inline(always)]
    fn load_halves(self, rows: RowGroup<'_, Self>, offset: usize) -> Self::Floats {
        std::array::from_fn(|row| f16::from_le_bytes(bytes(rows, row, offset)).to_f32())
    }

    #[inline(always)]
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        map2(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        map2(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn mul_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        map2(a, b, u32::wrapping_mul)
    }

    #[inline(always)]
    fn shl(self, a: Self::Ints, bits: u32) -> Self::Ints {
        a.map(|a| a << bits)
    }

    #[inline(always)]
    fn shr(self, a: Self::Ints, bits: u32) -> Self::Ints {
        a.map(|a| a >> bits)
    }

    #[inline(always)]
    fn dot_u8(self, acc: Self::Ints, a: Self::Ints, x: i32) -> Self::Ints {
        let x = x.to_le_bytes().map(|x| i32::from(x.cast_signed()));
        map2(acc, a, |acc, a| {
            let a = a.to_le_bytes().map(i32::from);
            let dot = a[0] * x[0] + a[1] * x[1] + a[2] * x[2] + a[3] * x[3];
            acc.wrapping_add(dot.cast_unsigned())
        })
    }

    #[inline(always)]
    fn codes_from_i8(self, a: Self::Ints) -> Self::Ints {
        a
    }

    #[inline(always)]
    fn dot_i8(self, acc: Self::Ints, a: Self::Ints, x: i32) -> Self::Ints {
        let x = x.to_le_bytes().map(|x| i32::from(x.cast_signed()));
        map2(acc, a, |acc, a| {
            let a = a.to_le_bytes().map(|a| i32::from(a.cast_signed()));
            let dot = a[0] * x[0] + a[1] * x[1] + a[2] * x[2] + a[3] * x[3];
            acc.wrapping_add(dot.cast_unsigned())
        })
    }

    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        a.map(|a| a.cast_signed() as f32)
    }

    #[inline(always)]
    fn low_halves(self, a: Self::Ints) -> Self::Floats {
        a.map(|a| f16::from_bits((a & 0xffff) as u16).to_f32())
    }

    #[inline(always)]
    fn floats(self, value: f32) -> Self::Floats {
        [value; ROWS]
    }

    #[inline(always)]
    fn mul_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn fma_floats(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn floats_to_array(self, a: Self::Floats) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        array[..ROWS].copy_from_slice(&a);
        array
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Lanes {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Lanes {
        *values
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Lanes {
        std::array::from_fn(|i| f32::from_le_bytes(std::array::from_fn(|j| bytes[4 * i + j])))
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Lanes {
        std::array::from_fn(|i| f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Lanes {
        std::array::from_fn(|i| bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn store(self, a: Self::Lanes, out: &mut [f32; LANES]) {
        *out = a;
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::Lanes) -> [i8; LANES] {
        a.map(|a| a.to_bits().to_le_bytes()[0].cast_signed())
    }

    #[inline(always)]
    fn add(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn zero_if_less(self, a: Self::Lanes, b: Self::Lanes, value: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| if a[i] < b[i] { 0.0 } else { value[i] })
    }

    #[inline(always)]
    fn pow2_of_shifted(self, a: Self::Lanes) -> Self::Lanes {
        a.map(|a| f32::from_bits(a.to_bits().wrapping_add(127) << 23))
    }

    #[inline(always)]
    fn sum(self, a: Self::Lanes) -> f32 {
        reduce(a, |a, b| a + b)
    }

    #[inline(always)]
    fn largest(self, a: Self::Lanes) -> f32 {
        reduce(a, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}
}
