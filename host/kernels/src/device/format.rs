//! How weight matrices lie in a device's memory: row by row, each row a whole number of 16 bytes.

use crate::{dequantize::dequantize, weight_type::WeightType};

use super::{Precision, memory::Region};

/// Columns that share a scale in W8 and W4.
pub(super) const GROUP: usize = 128;

/// The layout of a row of `k` values on the device. Every part begins at a multiple of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatrixFormat {
    /// float32 `[k]`.
    F32,
    /// bfloat16 `[k]`.
    Bf16,
    /// int8 `[k]`, then a bf16 scale per 128 columns: `value = scale * q`.
    W8,
    /// 4 bits `[k]`, then a bf16 scale per 128 columns: `value = scale * (q - 8)`. Of 8 columns
    /// one 32-bit word, whose nibble `i` is column `2 i` and nibble `i + 4` is column `2 i + 1`.
    W4,
    /// GGML's Q8_0 by parts: int8 `[k]`, then an f16 scale per 32 columns.
    Q8_0,
    /// GGML's Q6_K by parts: `ql` of all blocks (128 bytes each), `qh` (64), `scales` (16 int8),
    /// `d` (f16), each part in the order within its block that GGML gives it.
    Q6K,
    /// GGML's Q4_K as it is: blocks of 144 bytes for 256 columns.
    Q4K,
}

impl MatrixFormat {
    /// Every format.
    pub const ALL: [Self; 7] = [
        Self::F32,
        Self::Bf16,
        Self::W8,
        Self::W4,
        Self::Q8_0,
        Self::Q6K,
        Self::Q4K,
    ];

    /// As kernels and messages name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::W8 => "w8",
            Self::W4 => "w4",
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q4K => "q4_k",
        }
    }

    /// Columns must be a multiple of this.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::W8 | Self::W4 => 8,
            Self::Q8_0 => 32,
            Self::Q6K | Self::Q4K => 256,
        }
    }

    /// The parts of a row of `k` columns: where each begins, and at the end the row's size.
    #[must_use]
    pub const fn parts(self, k: usize) -> [usize; 5] {
        let sizes = match self {
            Self::F32 => [4 * k, 0, 0, 0],
            Self::Bf16 => [2 * k, 0, 0, 0],
            Self::W8 => [k, 2 * k.div_ceil(GROUP), 0, 0],
            Self::W4 => [k / 2, 2 * k.div_ceil(GROUP), 0, 0],
            Self::Q8_0 => [k, k / 32 * 2, 0, 0],
            Self::Q6K => [k / 2, k / 4, k / 16, k / 256 * 2],
            Self::Q4K => [k / 256 * 144, 0, 0, 0],
        };
        let mut starts = [0; 5];
        let mut part = 0;
        while part < 4 {
            starts[part + 1] = starts[part] + sizes[part].next_multiple_of(16);
            part += 1;
        }
        starts
    }

    /// Bytes of a row of `k` columns.
    #[must_use]
    pub const fn row_bytes(self, k: usize) -> usize {
        self.parts(k)[4]
    }

    /// What a matrix of a file becomes without rounding it anew: the block formats that have
    /// kernels stay, everything else becomes `precision`.
    #[must_use]
    pub const fn of(weight_type: WeightType, precision: Precision) -> Self {
        match (weight_type, precision) {
            (WeightType::Q8_0, _) => Self::Q8_0,
            (WeightType::Q6K, _) => Self::Q6K,
            (WeightType::Q4K, _) => Self::Q4K,
            (_, Precision::Bf16) => Self::Bf16,
            (_, Precision::F32) => Self::F32,
        }
    }

    /// Writes one row of a file's matrix, `k` columns in `row`, as it lies on the device.
    ///
    /// # Panics
    /// If `self` is not [`of`](Self::of) the type, or a length is wrong.
    pub fn pack(self, weight_type: WeightType, row: &[u8], k: usize, out: &mut [u8]) {
        assert_eq!(out.len(), self.row_bytes(k));
        let parts = self.parts(k);
        match self {
            Self::F32 | Self::Bf16 => pack_plain(self, weight_type, row, k, out),
            Self::Q4K => out[..row.len()].copy_from_slice(row),
            Self::Q8_0 => {
                assert_eq!(weight_type, WeightType::Q8_0);
                for (block, bytes) in row.chunks_exact(34).enumerate() {
                    out[parts[1] + 2 * block..][..2].copy_from_slice(&bytes[..2]);
                    out[32 * block..][..32].copy_from_slice(&bytes[2..]);
                }
            }
            Self::Q6K => {
                assert_eq!(weight_type, WeightType::Q6K);
                for (block, bytes) in row.chunks_exact(210).enumerate() {
                    let mut from = 0;
                    for (part, size) in [128, 64, 16, 2].into_iter().enumerate() {
                        out[parts[part] + size * block..][..size]
                            .copy_from_slice(&bytes[from..from + size]);
                        from += size;
                    }
                }
            }
            Self::W8 | Self::W4 => panic!("{} is made on the device", self.name()),
        }
    }

    /// The values of one row as it lies on the device: the reference of every kernel that reads
    /// weights.
    pub(crate) fn unpack(self, row: &[u8], out: &mut [f32]) {
        let k = out.len();
        let parts = self.parts(k);
        let scale = |part: usize, index: usize| -> u16 {
            u16::from_le_bytes([
                row[parts[part] + 2 * index],
                row[parts[part] + 2 * index + 1],
            ])
        };
        match self {
            Self::F32 => dequantize(WeightType::F32, &row[..4 * k], out),
            Self::Bf16 => dequantize(WeightType::BF16, &row[..2 * k], out),
            Self::Q4K => dequantize(WeightType::Q4K, &row[..k / 256 * 144], out),
            Self::W8 => {
                for (l, out) in out.iter_mut().enumerate() {
                    let scale = half::bf16::from_bits(scale(1, l / GROUP)).to_f32();
                    *out = scale * f32::from(row[l] as i8);
                }
            }
            Self::W4 => {
                for (l, out) in out.iter_mut().enumerate() {
                    let scale = half::bf16::from_bits(scale(1, l / GROUP)).to_f32();
                    *out = scale * (f32::from(nibble(row, l)) - 8.0);
                }
            }
            Self::Q8_0 => {
                for (l, out) in out.iter_mut().enumerate() {
                    let scale = half::f16::from_bits(scale(1, l / 32)).to_f32();
                    *out = scale * f32::from(row[l] as i8);
                }
            }
            Self::Q6K => {
                let mut bytes = [0; 210];
                for (block, out) in out.chunks_exact_mut(256).enumerate() {
                    let mut to = 0;
                    for (part, size) in [128, 64, 16, 2].into_iter().enumerate() {
                        bytes[to..to + size]
                            .copy_from_slice(&row[parts[part] + size * block..][..size]);
                        to += size;
                    }
                    dequantize(WeightType::Q6K, &bytes, out);
                }
            }
        }
    }
}

/// Where W4 keeps column `l`: byte and shift.
pub(crate) fn nibble_place(l: usize) -> (usize, u32) {
    let within = l % 8;
    let nibble = within / 2 + 4 * (within % 2);
    (l / 8 * 4 + nibble / 2, 4 * (nibble as u32 % 2))
}

fn nibble(row: &[u8], l: usize) -> u8 {
    let (byte, shift) = nibble_place(l);
    row[byte] >> shift & 15
}

fn pack_plain(format: MatrixFormat, weight_type: WeightType, row: &[u8], k: usize, out: &mut [u8]) {
    match (format, weight_type) {
        (MatrixFormat::F32, WeightType::F32) | (MatrixFormat::Bf16, WeightType::BF16) => {
            out[..row.len()].copy_from_slice(row);
        }
        _ => {
            let mut values = vec![0.0; k];
            dequantize(weight_type, row, &mut values);
            for (index, value) in values.into_iter().enumerate() {
                if format == MatrixFormat::F32 {
                    out[4 * index..][..4].copy_from_slice(&value.to_le_bytes());
                } else {
                    let value = half::bf16::from_f32(value);
                    out[2 * index..][..2].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
}

/// A weight matrix in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMatrix {
    /// Of each row.
    pub format: MatrixFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `rows * format.row_bytes(cols)` bytes.
    pub data: Region,
}

impl DeviceMatrix {
    /// Bytes from row to row.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols)
    }
}
