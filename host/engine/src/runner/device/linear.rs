//! Linear layers: by kernels that read the weights once for a few rows, or by the device's library.

use gapura_kernels::device::{
    Dequantize, DeviceMatrix, Epilogue, Gemm, Gemv, Glu, MAX_GEMV_ROWS, MatrixFormat, Op, Region,
    SoftCap,
};

use super::{forward::Program, weights::DeviceLayer};
use crate::layers::Activation;

/// How a linear layer's outputs are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Out {
    Act,
    F32 { cap: f32 },
    Gated { is_silu: bool },
}

/// One matrix's part of a linear layer.
struct Product {
    x: Region,
    out: Region,
    /// Rows of x.
    n: usize,
    /// The first of its columns of `out`.
    first: usize,
    /// Columns of `out`.
    width: usize,
    kind: Out,
}

impl Program<'_> {
    /// The MLP up to its gate.
    pub(super) fn gate_up(&mut self, layer: &DeviceLayer, n: usize) {
        let (buffers, inner) = (self.buffers, self.model.sizes.inner);
        let is_silu = matches!(self.model.activation, Activation::Silu);
        if let [matrix] = layer.gate_up_proj[..]
            && gemv_passes(&matrix, n)
        {
            let product = Product {
                x: buffers.normed,
                out: buffers.gated,
                n,
                first: 0,
                width: inner,
                kind: Out::Gated { is_silu },
            };
            self.gemv(&matrix, &product);
            return;
        }
        self.linear(
            &layer.gate_up_proj,
            buffers.normed,
            buffers.gate_up,
            n,
            Out::Act,
        );
        self.ops.push(Op::Glu(Glu {
            x: buffers.gate_up.address,
            out: buffers.gated.address,
            n: n as u32,
            inner: inner as u32,
            silu: u32::from(is_silu),
            reserved: 0,
        }));
    }

    /// `out = x w^T` of matrices side by side.
    pub(super) fn linear(
        &mut self,
        parts: &[DeviceMatrix],
        x: Region,
        out: Region,
        n: usize,
        kind: Out,
    ) {
        let width = parts.iter().map(|part| part.rows).sum();
        let mut first = 0;
        for matrix in parts {
            let product = Product {
                x,
                out,
                n,
                first,
                width,
                kind,
            };
            if gemv_passes(matrix, n) {
                self.gemv(matrix, &product);
            } else {
                self.gemm(matrix, &product);
            }
            first += matrix.rows;
        }
        if let Out::F32 { cap } = kind
            && cap > 0.0
            && !parts.iter().all(|matrix| gemv_passes(matrix, n))
        {
            self.ops.push(Op::SoftCap(SoftCap {
                x: out.address,
                count: (n * width) as u64,
                cap,
                reserved: 0,
            }));
        }
    }

    fn gemv(&mut self, matrix: &DeviceMatrix, product: &Product) {
        let &Product {
            x,
            out,
            n,
            first,
            width,
            kind,
        } = product;
        let act = self.options.precision.bytes();
        let (epilogue, size, cap, m) = match kind {
            Out::Act => (Epilogue::Act, act, 0.0, matrix.rows),
            Out::F32 { cap } => (Epilogue::F32, 4, cap, matrix.rows),
            Out::Gated { is_silu: false } => (Epilogue::GeluGlu, act, 0.0, matrix.rows / 2),
            Out::Gated { is_silu: true } => (Epilogue::SiluGlu, act, 0.0, matrix.rows / 2),
        };
        let mut row = 0;
        while row < n {
            let rows = (n - row).min(MAX_GEMV_ROWS as usize);
            self.ops.push(Op::Gemv(
                Gemv {
                    x: x.address.offset(act * (row * matrix.cols) as u64),
                    w: matrix.data.address,
                    out: out.address.offset(size * (row * width + first) as u64),
                    n: rows as u32,
                    m: m as u32,
                    k: matrix.cols as u32,
                    row_bytes: matrix.row_bytes() as u32,
                    cap,
                    out_stride: width as u32,
                },
                matrix.format,
                epilogue,
            ));
            row += rows;
        }
    }

    /// By the device's library, from activations made of the weights where these are none, as
    /// many rows at a time as the scratch memory holds.
    fn gemm(&mut self, matrix: &DeviceMatrix, product: &Product) {
        let &Product {
            x,
            out,
            n,
            first,
            width,
            kind,
        } = product;
        let act = self.options.precision.bytes();
        let (is_f32, size) = match kind {
            Out::F32 { .. } => (1, 4),
            Out::Act | Out::Gated { .. } => (0, act),
        };
        let k = matrix.cols;
        let is_plain = self.options.is_plain(matrix.format);
        let at_once = match is_plain {
            true => matrix.rows,
            false => (self.buffers.dequantized.bytes / act) as usize / k,
        };
        let mut row = 0;
        while row < matrix.rows {
            let m = at_once.min(matrix.rows - row);
            let stored = matrix
                .data
                .address
                .offset((row * matrix.row_bytes()) as u64);
            let w = if is_plain {
                stored
            } else {
                self.buffers.dequantized.address
            };
            if !is_plain {
                self.ops.push(Op::Dequantize(
                    Dequantize {
                        w: stored,
                        out: w,
                        m: m as u32,
                        k: k as u32,
                        row_bytes: matrix.row_bytes() as u32,
                        reserved: 0,
                    },
                    matrix.format,
                ));
            }
            self.ops.push(Op::Gemm(Gemm {
                x: x.address,
                w,
                out: out.address.offset(size * (first + row) as u64),
                n: n as u32,
                m: m as u32,
                k: k as u32,
                x_stride: k as u32,
                w_stride: k as u32,
                out_stride: width as u32,
                batch: 1,
                w_shared: 1,
                out_is_f32: is_f32,
                allow_tf32: u32::from(self.options.allow_tf32),
                ..Gemm::default()
            }));
            row += m;
        }
    }
}

/// Whether reading the weights once for each eight rows costs less than what a library's
/// product needs: nothing more of plain weights, but of others to be written and read as
/// activations (2 and 2 bytes a weight, against 1 or half a byte a pass).
fn gemv_passes(matrix: &DeviceMatrix, n: usize) -> bool {
    let most = match matrix.format {
        MatrixFormat::Bf16 | MatrixFormat::F32 => 1,
        MatrixFormat::W8 | MatrixFormat::Q8_0 | MatrixFormat::Q6K => 4,
        MatrixFormat::W4 | MatrixFormat::Q4K => 8,
    };
    n <= most * MAX_GEMV_ROWS as usize
}
