//! The references: what each operation computes, in the slow and obvious way, with every address
//! checked against what was allocated. Sums are taken in float64, so that a difference to a kernel
//! is the kernel's.

mod attention;
mod rows;
mod sampling;
mod weights;

use super::{Address, DeviceError, Precision, host::Arena, launch::Specialization, ops::Op};

impl Op {
    /// Computes it in `arena`.
    ///
    /// # Errors
    /// [`DeviceError::Outside`] for the first address that is not within one allocation.
    pub(super) fn interpret(
        &self,
        for_: Specialization,
        arena: &mut Arena,
    ) -> Result<(), DeviceError> {
        let mut memory = Memory {
            arena,
            precision: for_.precision,
            op: self.name(),
        };
        let dim = for_.head_dim as usize;
        let group = for_.group as usize;
        match self {
            Self::Embed(p, format) => weights::embed(&mut memory, p, *format),
            Self::Gemv(p, format, epilogue) => weights::gemv(&mut memory, p, *format, *epilogue),
            Self::Gemm(p) => weights::gemm(&mut memory, p),
            Self::Dequantize(p, format) => weights::dequantize(&mut memory, p, *format),
            Self::Quantize(p, format) => weights::quantize(&mut memory, p, *format),
            Self::AddNorm(p) => rows::add_norm(&mut memory, p),
            Self::Glu(p) => rows::glu(&mut memory, p),
            Self::SoftCap(p) => rows::soft_cap(&mut memory, p),
            Self::RopeKv(p) => rows::rope_kv(&mut memory, p, dim),
            Self::CountNonFinite(p) => rows::count_non_finite(&mut memory, p),
            Self::FillRandom(p) => rows::fill_random(&mut memory, p),
            Self::ReadProbe(p) => rows::read_probe(&mut memory, p),
            Self::AttendDecode(p) => attention::decode(&mut memory, p, dim, group),
            Self::MergeSplits(p) => attention::merge(&mut memory, p, dim),
            Self::AttendPrefill(p) => attention::prefill(&mut memory, p, dim, group),
            Self::GatherKv(p) => attention::gather(&mut memory, p, dim),
            Self::MaskedSoftmax(p) => attention::masked_softmax(&mut memory, p),
            Self::Logprobs(p) => sampling::logprobs(&mut memory, p),
            Self::Penalize(p) => sampling::penalize(&mut memory, p),
            Self::Sample(p) => sampling::sample(&mut memory, p),
        }
    }
}

/// The arena as one operation sees it.
struct Memory<'a> {
    arena: &'a mut Arena,
    precision: Precision,
    op: &'static str,
}

impl Memory<'_> {
    fn bytes(&self, at: Address, bytes: usize) -> Result<&[u8], DeviceError> {
        self.arena.read(self.op, at, bytes as u64)
    }

    fn bytes_mut(&mut self, at: Address, bytes: usize) -> Result<&mut [u8], DeviceError> {
        self.arena.write(self.op, at, bytes as u64)
    }

    fn f32s(&self, at: Address, count: usize) -> Result<Vec<f32>, DeviceError> {
        self.arena.f32s(self.op, at, count)
    }

    /// `None` where the parameter is left out.
    fn optional_f32s(&self, at: Address, count: usize) -> Result<Option<Vec<f32>>, DeviceError> {
        match at {
            Address::NONE => Ok(None),
            at => self.f32s(at, count).map(Some),
        }
    }

    fn u32s(&self, at: Address, count: usize) -> Result<Vec<u32>, DeviceError> {
        self.arena.u32s(self.op, at, count)
    }

    fn u32_at(&self, at: Address, index: usize) -> Result<u32, DeviceError> {
        Ok(self.u32s(at.offset(4 * index as u64), 1)?[0])
    }

    /// Activations from element `first` on.
    fn acts(&self, at: Address, first: usize, count: usize) -> Result<Vec<f32>, DeviceError> {
        let at = at.offset(first as u64 * self.precision.bytes());
        self.arena.acts(self.precision, self.op, at, count)
    }

    fn put_f32s(&mut self, at: Address, first: usize, values: &[f32]) -> Result<(), DeviceError> {
        let at = at.offset(4 * first as u64);
        self.arena.put_f32s(self.op, at, values)
    }

    fn put_u32s(&mut self, at: Address, first: usize, values: &[u32]) -> Result<(), DeviceError> {
        let at = at.offset(4 * first as u64);
        self.arena.put_u32s(self.op, at, values)
    }

    fn put_acts(&mut self, at: Address, first: usize, values: &[f32]) -> Result<(), DeviceError> {
        let at = at.offset(first as u64 * self.precision.bytes());
        self.arena.put_acts(self.precision, self.op, at, values)
    }
}

/// A token's id where `sources` may send it to what was drawn in the step before.
fn input_token(
    memory: &Memory<'_>,
    row: usize,
    tokens: Address,
    sources: Address,
    sampled: Address,
) -> Result<u32, DeviceError> {
    let source = memory.u32_at(sources, row)? as i32;
    match usize::try_from(source) {
        Ok(source) => memory.u32_at(sampled, source),
        Err(_) => memory.u32_at(tokens, row),
    }
}

/// `cap * tanh(x / cap)`; `x` where `cap` is 0.
fn capped(x: f64, cap: f32) -> f64 {
    if cap > 0.0 {
        f64::from(cap) * (x / f64::from(cap)).tanh()
    } else {
        x
    }
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}
