//! Every operation of every instruction set against the portable one's, bit by bit. The kernels'
//! own tests compare whole results; here a wrong lane shows under its operation's name.

use rand::Rng;
use rand::rngs::StdRng;

use super::{Isa, LANES, Op, RowGroup, Simd};
use crate::test_support::rng;

/// As many rows as the widest instruction set works on.
const ROWS: usize = 16;

/// Bytes of a row: odd, so that most reads are unaligned.
const STRIDE: usize = 37;

/// The bits that each operation gave, in the order in which they first ran.
#[derive(Default)]
struct Results(Vec<(&'static str, Vec<u32>)>);

impl Results {
    fn add(&mut self, operation: &'static str, bits: impl IntoIterator<Item = u32>) {
        let at = self.0.iter().position(|(name, _)| *name == operation);
        let at = at.unwrap_or_else(|| {
            self.0.push((operation, Vec::new()));
            self.0.len() - 1
        });
        self.0[at].1.extend(bits);
    }
}

/// Runs `run` on each instruction set; `case` is for the message.
fn assert_all_agree(case: usize, run: impl Fn(Isa, &mut Results)) {
    let mut expected = Results::default();
    for (i, isa) in Isa::available().into_iter().enumerate() {
        let mut found = Results::default();
        run(isa, &mut found);
        if i == 0 {
            assert_eq!(isa.name(), "portable");
            expected = found;
            continue;
        }
        assert_eq!(found.0.len(), expected.0.len());
        for ((name, found), (_, expected)) in found.0.iter().zip(&expected.0) {
            assert_eq!(found, expected, "{name} of {}, case {case}", isa.name());
        }
    }
}

/// Which NaN comes of arithmetic and of widening is left open.
fn one_nan(value: f32) -> u32 {
    if value.is_nan() {
        f32::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

/// Numbers of like size, any bits at all, or those where operations turn.
fn lanes(rng: &mut StdRng, kind: usize) -> [f32; LANES] {
    let odd = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    std::array::from_fn(|_| match kind % 3 {
        0 => rng.random_range(-1.0..1.0),
        1 => f32::from_bits(rng.random()),
        _ => odd[rng.random_range(0..odd.len())],
    })
}

/// The operations on rows, for all [`ROWS`] of them.
struct RowOperations<'a> {
    /// `[ROWS, STRIDE]`.
    bytes: &'a [u8],
    /// Where to read: 20 bytes from here on.
    offset: usize,
    /// To multiply codes with, none of its bytes -128.
    x: i32,
    /// To shift by.
    bits: u32,
    out: &'a mut Results,
}

impl RowOperations<'_> {
    #[inline(always)]
    fn ints<S: Simd>(&mut self, s: S, operation: &'static str, a: S::Ints) {
        // A half at a time, because an f32 has not the bits of a whole word.
        let low = s.floats_to_array(s.to_floats(s.and(a, s.ints(0xffff))));
        let high = s.floats_to_array(s.to_floats(s.shr(a, 16)));
        let words = low.iter().zip(high);
        let words = words.map(|(low, high)| (high as u32) << 16 | *low as u32);
        self.out.add(operation, words.take(S::ROWS));
    }

    #[inline(always)]
    fn floats<S: Simd>(&mut self, s: S, operation: &'static str, a: S::Floats) {
        let values = s.floats_to_array(a);
        self.out
            .add(operation, values[..S::ROWS].iter().copied().map(one_nan));
    }
}

impl Op for RowOperations<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for group in self.bytes.chunks_exact(S::ROWS * STRIDE) {
            let rows = RowGroup::<S>::new(group, STRIDE);
            let words = s.load_rows(rows, self.offset);
            let [a, b, _, _] = words;
            let c = s.load_words(rows, self.offset + 16);
            for (name, word) in ["word 0", "word 1", "word 2", "word 3"].iter().zip(words) {
                self.ints(s, name, word);
            }
            self.ints(s, "ints", s.ints(self.x));
            self.ints(s, "load_words", c);
            self.ints(s, "and", s.and(a, b));
            self.ints(s, "or", s.or(a, b));
            self.ints(s, "mul_ints", s.mul_ints(a, b));
            self.ints(s, "shl", s.shl(a, self.bits));
            self.ints(s, "shr", s.shr(a, self.bits));
            let codes = s.and(a, s.ints(0x3f3f_3f3f));
            self.ints(s, "dot_u8", s.dot_u8(c, codes, self.x));
            let sum: i32 = self
                .x
                .to_le_bytes()
                .map(|x| i32::from(x as i8))
                .iter()
                .sum();
            let unbiased = s.ints(-S::I8_BIAS * sum);
            let dot = s.dot_i8(unbiased, s.codes_from_i8(a), self.x);
            self.ints(s, "dot_i8", dot);

            let halves = s.load_halves(rows, self.offset);
            let (f, g) = (s.to_floats(a), s.to_floats(b));
            self.floats(s, "load_halves", halves);
            self.floats(s, "low_halves", s.low_halves(b));
            self.floats(s, "to_floats", f);
            self.floats(s, "floats", s.floats(self.x as f32));
            self.floats(s, "mul_floats", s.mul_floats(f, halves));
            self.floats(s, "fma_floats", s.fma_floats(f, halves, g));
        }
    }
}

#[test]
fn rows_agree_in_every_operation() {
    let mut rng = rng(1);
    for case in 0..2000 {
        let mut bytes = [0u8; ROWS * STRIDE];
        rng.fill(&mut bytes[..]);
        let mut x = [0i8; 4];
        rng.fill(&mut x[..]);
        // The largest sums that there are, now and then.
        if case % 4 == 0 {
            bytes.fill([0x80, 0x7f, 0x3f, 0xff][case / 4 % 4]);
            x = [[127; 4], [-127; 4]][case / 16 % 2];
        }
        let x = i32::from_le_bytes(x.map(|x| x.max(-127).cast_unsigned()));
        assert_all_agree(case, |isa, out| {
            isa.run(RowOperations {
                bytes: &bytes,
                offset: case % (STRIDE - 19),
                x,
                bits: u32::try_from(case % 32).unwrap(),
                out,
            });
        });
    }
}

/// The operations on lanes.
struct LaneOperations<'a> {
    a: [f32; LANES],
    b: [f32; LANES],
    c: [f32; LANES],
    /// Whole numbers in `-126..=127`.
    exponents: [f32; LANES],
    /// 16 of f16 or bf16.
    halves: [u8; 2 * LANES],
    out: &'a mut Results,
}

impl LaneOperations<'_> {
    /// An operation that only moves or chooses.
    #[inline(always)]
    fn exact<S: Simd>(&mut self, s: S, operation: &'static str, a: S::Lanes) {
        let mut values = [0.0; LANES];
        s.store(a, &mut values);
        self.out.add(operation, values.map(f32::to_bits));
    }

    #[inline(always)]
    fn rounded<S: Simd>(&mut self, s: S, operation: &'static str, a: S::Lanes) {
        let mut values = [0.0; LANES];
        s.store(a, &mut values);
        self.out.add(operation, values.map(one_nan));
    }
}

impl Op for LaneOperations<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (a, b, c) = (s.load(&self.a), s.load(&self.b), s.load(&self.c));
        self.exact(s, "load", a);
        self.exact(s, "splat", s.splat(self.a[0]));
        let mut bytes = [0; 4 * LANES];
        for (bytes, a) in bytes.chunks_exact_mut(4).zip(self.a) {
            bytes.copy_from_slice(&a.to_le_bytes());
        }
        self.exact(s, "load_f32", s.load_f32(&bytes));
        self.rounded(s, "load_f16", s.load_f16(&self.halves));
        self.rounded(s, "load_bf16", s.load_bf16(&self.halves));
        let low_bytes = s.low_bytes(a).map(|byte| u32::from(byte.cast_unsigned()));
        self.out.add("low_bytes", low_bytes);
        self.rounded(s, "add", s.add(a, b));
        self.rounded(s, "sub", s.sub(a, b));
        self.rounded(s, "mul", s.mul(a, b));
        self.rounded(s, "div", s.div(a, b));
        self.rounded(s, "fma", s.fma(a, b, c));
        self.exact(s, "max", s.max(a, b));
        self.exact(s, "min", s.min(a, b));
        self.exact(s, "zero_if_less", s.zero_if_less(a, b, c));
        let shifted = s.add(s.load(&self.exponents), s.splat(super::ROUND));
        self.exact(s, "pow2_of_shifted", s.pow2_of_shifted(shifted));
        self.out.add("sum", [one_nan(s.sum(a))]);
        self.out.add("largest", [s.largest(a).to_bits()]);
        let length = self.halves[0] as usize % (LANES + 1);
        self.exact(s, "load_partial", s.load_partial(&self.a[..length]));
        let mut values = [7.0; LANES];
        s.store_partial(a, &mut values[..length]);
        self.out.add("store_partial", values.map(f32::to_bits));
    }
}

#[test]
fn lanes_agree_in_every_operation() {
    let mut rng = rng(2);
    // As many cases as it takes to have each f16 and each bf16.
    for case in 0..0x1_0000 / LANES {
        let first = u16::try_from(case * LANES).unwrap();
        let mut halves = [0; 2 * LANES];
        for (half, bits) in halves.chunks_exact_mut(2).zip(first..) {
            half.copy_from_slice(&bits.to_le_bytes());
        }
        // With itself too, where what is equal or NaN decides.
        let a = lanes(&mut rng, case);
        let b = if case % 7 == 0 {
            a
        } else {
            lanes(&mut rng, case / 3)
        };
        let c = lanes(&mut rng, case / 9);
        let exponents = std::array::from_fn(|_| rng.random_range(-126..=127) as f32);
        assert_all_agree(case, |isa, out| {
            isa.run(LaneOperations {
                a,
                b,
                c,
                exponents,
                halves,
                out,
            });
        });
    }
}

/// Without it the two tests above would pass on a machine where nothing is compared.
#[cfg(target_arch = "aarch64")]
#[test]
fn neon_is_found_on_arm() {
    let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    let mut expected = vec!["portable", "neon"];
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        expected.push("neon-dotprod");
    }
    assert_eq!(names, expected);
}
