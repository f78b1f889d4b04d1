//! From an operation to a kernel: its name, its grid, its parameter block.

use super::{
    Precision,
    error::DeviceError,
    format::MatrixFormat,
    ops::{Epilogue, Logprobs, MAX_GEMV_ROWS, Op, PREFILL_TILE_ROWS, Sample},
};

/// Keys that prefill attention holds in shared memory at a time.
pub(crate) const PREFILL_TILE_KEYS: u32 = 32;

/// Outputs that one block of a [`Gemv`](super::Gemv) computes, one a warp.
pub(crate) const GEMV_WARPS: u32 = 8;

/// Ids that `select.cuh` tells apart.
const MAX_VOCAB: u32 = 1 << 22;

/// Threads of a block that strides over elements, and elements that each takes at least.
const STRIDE_BLOCK: u32 = 256;
const STRIDE_ITEMS: u64 = 8;

/// What kernels are compiled for, beside the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Specialization {
    /// Of activations, keys and values.
    pub precision: Precision,
    /// Width of a head: a multiple of 16, up to 256.
    pub head_dim: u32,
    /// Query heads that share a key head: 1 to 8. Of more, a thread of `attend_decode` could not
    /// keep its sums in registers.
    pub group: u32,
}

impl Specialization {
    /// Whether there are kernels for it.
    ///
    /// # Errors
    /// [`DeviceError::Launch`].
    pub fn check(self) -> Result<(), DeviceError> {
        require(
            "attention",
            "head_dim",
            u64::from(self.head_dim),
            (16..=256).contains(&self.head_dim) && self.head_dim.is_multiple_of(16),
            "a multiple of 16, from 16 to 256",
        )?;
        require(
            "attention",
            "query heads per key head",
            u64::from(self.group),
            (1..=8).contains(&self.group),
            "1 to 8",
        )
    }

    /// The macros that the sources read.
    #[must_use]
    pub fn defines(self) -> [(&'static str, u32); 3] {
        [
            ("GAPURA_F32", u32::from(self.precision == Precision::F32)),
            ("HEAD_DIM", self.head_dim),
            ("GROUP", self.group),
        ]
    }
}

/// A kernel launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The source file in `host/kernels/cuda`, without `.cu`.
    pub module: &'static str,
    /// The function.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block, in one dimension.
    pub block: u32,
    /// Dynamic shared memory.
    pub shared_bytes: u32,
    /// The parameter block.
    pub params: Vec<u8>,
}

impl Op {
    /// Its name, as messages and profiles show it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Embed(..) => "embed",
            Self::AddNorm(..) => "add_norm",
            Self::Gemv(..) => "gemv",
            Self::Gemm(..) => "gemm",
            Self::Dequantize(..) => "dequantize",
            Self::Glu(..) => "glu",
            Self::SoftCap(..) => "soft_cap",
            Self::RopeKv(..) => "rope_kv",
            Self::AttendDecode(..) => "attend_decode",
            Self::MergeSplits(..) => "merge_splits",
            Self::AttendPrefill(..) => "attend_prefill",
            Self::GatherKv(..) => "gather_kv",
            Self::MaskedSoftmax(..) => "masked_softmax",
            Self::Logprobs(..) => "logprobs",
            Self::Penalize(..) => "penalize",
            Self::Sample(..) => "sample",
            Self::Quantize(..) => "quantize",
            Self::CountNonFinite(..) => "count_non_finite",
            Self::FillRandom(..) => "fill_random",
            Self::ReadProbe(..) => "read_probe",
        }
    }

    /// Whether its sizes have a kernel.
    ///
    /// # Errors
    /// [`DeviceError::Launch`] names the parameter.
    pub fn check(&self, for_: Specialization) -> Result<(), DeviceError> {
        let op = self.name();
        let columns = |format: MatrixFormat, k: u32| {
            let is_whole = (k as usize).is_multiple_of(format.block_len()) && k > 0;
            require(
                op,
                "columns",
                u64::from(k),
                is_whole,
                "whole blocks of the format",
            )
        };
        match self {
            Self::Embed(p, format) => columns(*format, p.hidden),
            Self::Gemv(p, format, _) => {
                let fits = (1..=MAX_GEMV_ROWS).contains(&p.n);
                require(op, "rows", u64::from(p.n), fits, "1 to 8")?;
                columns(*format, p.k)
            }
            Self::Dequantize(p, format) => columns(*format, p.k),
            Self::Quantize(p, format) => {
                let has_kernel = matches!(format, MatrixFormat::W8 | MatrixFormat::W4);
                require(op, "format", 0, has_kernel, "W8 or W4")?;
                columns(*format, p.k)
            }
            Self::AttendDecode(p) => {
                require(op, "splits", u64::from(p.splits), p.splits > 0, "positive")
            }
            Self::AttendPrefill(_) => {
                let is_bf16 = for_.precision == Precision::Bf16;
                require(
                    op,
                    "bytes of an activation",
                    for_.precision.bytes(),
                    is_bf16,
                    "2 (bf16)",
                )
            }
            Self::Logprobs(Logprobs { vocab, .. }) | Self::Sample(Sample { vocab, .. }) => require(
                op,
                "vocabulary",
                u64::from(*vocab),
                *vocab <= MAX_VOCAB,
                "at most 4194304",
            ),
            _ => Ok(()),
        }
    }

    /// How its kernel is launched; `None` for [`Op::Gemm`], which a library computes.
    #[must_use]
    pub fn launch(&self, for_: Specialization) -> Option<Launch> {
        let dim = for_.head_dim;
        let launch = |module, kernel: String, grid, block| Launch {
            module,
            kernel,
            grid,
            block,
            shared_bytes: 0,
            params: self.params(),
        };
        let strided = |module, kernel: &str, count: u64| {
            let blocks = count
                .div_ceil(u64::from(STRIDE_BLOCK) * STRIDE_ITEMS)
                .clamp(1, 1 << 16);
            launch(
                module,
                kernel.to_owned(),
                [blocks as u32, 1, 1],
                STRIDE_BLOCK,
            )
        };
        let by_format = |format: &MatrixFormat| format!("{}_{}", self.name(), format.name());
        Some(match self {
            Self::Gemm(_) => return None,
            Self::Embed(p, format) => launch("embed", by_format(format), [p.n, 1, 1], 256),
            Self::AddNorm(p) => launch("add_norm", "add_norm".into(), [p.n, 1, 1], 256),
            Self::Gemv(p, format, epilogue) => {
                let epilogue = match epilogue {
                    Epilogue::Act => "act",
                    Epilogue::F32 => "f32",
                    Epilogue::GeluGlu => "gelu",
                    Epilogue::SiluGlu => "silu",
                };
                let rows = p.n.next_power_of_two();
                let kernel = format!("gemv_{}_{epilogue}_{rows}", format.name());
                launch(
                    "gemv",
                    kernel,
                    [p.m.div_ceil(GEMV_WARPS), 1, 1],
                    32 * GEMV_WARPS,
                )
            }
            Self::Dequantize(p, format) => {
                launch("dequantize", by_format(format), [p.m, 1, 1], 128)
            }
            Self::Glu(p) => strided("elementwise", "glu", u64::from(p.n) * u64::from(p.inner)),
            Self::SoftCap(p) => strided("elementwise", "soft_cap", p.count),
            Self::RopeKv(p) => {
                let grid = [p.n, p.heads + 2 * p.kv_heads, 1];
                launch(
                    "rope_kv",
                    "rope_kv".into(),
                    grid,
                    (dim / 2).next_multiple_of(32),
                )
            }
            Self::AttendDecode(p) => launch(
                "attend_decode",
                "attend_decode".into(),
                [p.n, p.kv_heads, p.splits],
                128,
            ),
            Self::MergeSplits(p) => launch(
                "attend_decode",
                "merge_splits".into(),
                [p.n, p.heads, 1],
                dim.next_multiple_of(32),
            ),
            Self::AttendPrefill(p) => Launch {
                shared_bytes: prefill_shared_bytes(dim),
                ..launch(
                    "attend_prefill",
                    "attend_prefill".into(),
                    [p.num_tiles, p.kv_heads * for_.group, 1],
                    128,
                )
            },
            Self::GatherKv(p) => launch(
                "attend_plain",
                "gather_kv".into(),
                [p.count, p.kv_heads, 1],
                64,
            ),
            Self::MaskedSoftmax(p) => launch(
                "attend_plain",
                "masked_softmax".into(),
                [p.rows, p.heads, 1],
                256,
            ),
            Self::Logprobs(p) => launch("sample", "logprobs".into(), [p.n, 1, 1], 1024),
            Self::Penalize(p) => launch("sample", "penalize".into(), [p.n, 1, 1], 1024),
            Self::Sample(p) => launch("sample", "sample".into(), [p.n, 1, 1], 1024),
            Self::Quantize(p, format) => launch("quantize", by_format(format), [p.m, 1, 1], 128),
            Self::CountNonFinite(p) => strided("probe", "count_non_finite", p.count),
            Self::FillRandom(p) => strided("probe", "fill_random", p.count),
            Self::ReadProbe(p) => launch("probe", "read_probe".into(), [p.blocks, 1, 1], 256),
        })
    }

    /// The bytes of its parameter block.
    fn params(&self) -> Vec<u8> {
        match self {
            Self::Embed(p, _) => bytes_of(p),
            Self::AddNorm(p) => bytes_of(p),
            Self::Gemv(p, ..) => bytes_of(p),
            Self::Gemm(p) => bytes_of(p),
            Self::Dequantize(p, _) => bytes_of(p),
            Self::Glu(p) => bytes_of(p),
            Self::SoftCap(p) => bytes_of(p),
            Self::RopeKv(p) => bytes_of(p),
            Self::AttendDecode(p) => bytes_of(p),
            Self::MergeSplits(p) => bytes_of(p),
            Self::AttendPrefill(p) => bytes_of(p),
            Self::GatherKv(p) => bytes_of(p),
            Self::MaskedSoftmax(p) => bytes_of(p),
            Self::Logprobs(p) => bytes_of(p),
            Self::Penalize(p) => bytes_of(p),
            Self::Sample(p) => bytes_of(p),
            Self::Quantize(p, _) => bytes_of(p),
            Self::CountNonFinite(p) => bytes_of(p),
            Self::FillRandom(p) => bytes_of(p),
            Self::ReadProbe(p) => bytes_of(p),
        }
    }
}

/// Queries, and keys and values of one tile, each row 16 bytes longer than it need be so that
/// neighbouring rows begin in different banks.
fn prefill_shared_bytes(head_dim: u32) -> u32 {
    (PREFILL_TILE_ROWS + 2 * PREFILL_TILE_KEYS) * (head_dim + 8) * 2
}

fn require(
    op: &'static str,
    what: &'static str,
    value: u64,
    holds: bool,
    requirement: &'static str,
) -> Result<(), DeviceError> {
    if holds {
        return Ok(());
    }
    Err(DeviceError::Launch {
        op,
        what,
        value,
        requirement,
    })
}

/// Types that are nothing but their bytes: `repr(C)`, without gaps, every bit pattern of their
/// fields valid.
///
/// # Safety
/// Exactly that.
unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ident: $eights:literal, $fours:literal;)*) => {$(
        // SAFETY: `repr(C)` of fields of 8 and of 4 bytes, of which there are so many: the
        // assertion below shows that nothing lies between or behind them.
        unsafe impl Plain for super::ops::$type {}
        const _: () = assert!(size_of::<super::ops::$type>() == 8 * $eights + 4 * $fours);
    )*};
}

// How many fields have 8 bytes, and 4.
plain! {
    Embed: 7, 6;
    AddNorm: 6, 4;
    Gemv: 3, 6;
    Gemm: 6, 12;
    Dequantize: 2, 4;
    Glu: 2, 4;
    SoftCap: 2, 2;
    RopeKv: 9, 6;
    AttendDecode: 8, 8;
    MergeSplits: 3, 4;
    AttendPrefill: 6, 6;
    GatherKv: 5, 4;
    MaskedSoftmax: 2, 8;
    Logprobs: 3, 2;
    Penalize: 9, 2;
    Sample: 4, 2;
    Quantize: 2, 4;
    CountNonFinite: 3, 2;
    FillRandom: 3, 2;
    ReadProbe: 3, 2;
    PrefillTile: 0, 4;
    RowSampling: 1, 16;
    Bias: 0, 2;
    RowLogprobs: 0, 42;
}

fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    slice_bytes(std::slice::from_ref(value)).to_vec()
}

fn slice_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` types are nothing but their bytes; the slice is as long as they are and
    // borrowed as long.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of what a step uploads beside plain numbers.
pub trait Upload {
    /// As it lies on the device.
    fn as_bytes(&self) -> &[u8];
}

impl<T: Plain> Upload for [T] {
    fn as_bytes(&self) -> &[u8] {
        slice_bytes(self)
    }
}
