//! Operations that read weight matrices.

use rayon::prelude::*;

use super::{Memory, capped, gelu_tanh, input_token, rows::rms_norm, silu};
use crate::device::{
    DeviceError,
    format::{GROUP, MatrixFormat, nibble_place},
    ops::{Dequantize, Embed, Epilogue, Gemm, Gemv, Quantize},
};

pub(super) fn embed(
    memory: &mut Memory<'_>,
    p: &Embed,
    format: MatrixFormat,
) -> Result<(), DeviceError> {
    let (hidden, row_bytes) = (p.hidden as usize, p.row_bytes as usize);
    let weight = memory.f32s(p.norm_weight, hidden)?;
    for i in 0..p.n as usize {
        let token = input_token(memory, i, p.tokens, p.sources, p.sampled)?;
        let token = if token < p.vocab { token as usize } else { 0 };
        let row = p.table.offset((token * row_bytes) as u64);
        let mut residual = vec![0.0; hidden];
        format.unpack(memory.bytes(row, row_bytes)?, &mut residual);
        for value in &mut residual {
            *value *= p.scale;
        }
        memory.put_f32s(p.residual, i * hidden, &residual)?;
        let out = rms_norm(&residual, &weight, p.eps);
        memory.put_acts(p.out, i * hidden, &out)?;
    }
    Ok(())
}

pub(super) fn gemv(
    memory: &mut Memory<'_>,
    p: &Gemv,
    format: MatrixFormat,
    epilogue: Epilogue,
) -> Result<(), DeviceError> {
    let (n, m, k) = (p.n as usize, p.m as usize, p.k as usize);
    let row_bytes = p.row_bytes as usize;
    let is_gated = matches!(epilogue, Epilogue::GeluGlu | Epilogue::SiluGlu);
    let x = memory.acts(p.x, 0, n * k)?;
    let rows = if is_gated { 2 * m } else { m };
    let w = memory.bytes(p.w, rows * row_bytes)?;
    let dot = |j: usize| -> Vec<f64> {
        let mut row = vec![0.0; k];
        format.unpack(&w[j * row_bytes..][..row_bytes], &mut row);
        x.chunks_exact(k).map(|x| dot(x, &row)).collect()
    };
    let columns: Vec<Vec<f64>> = (0..m)
        .into_par_iter()
        .map(|j| {
            let sums = dot(j);
            let ups = if is_gated { dot(m + j) } else { Vec::new() };
            let finish = |(i, sum): (usize, f64)| match epilogue {
                Epilogue::Act => sum,
                Epilogue::F32 => capped(sum, p.cap),
                Epilogue::GeluGlu => gelu_tanh(sum) * ups[i],
                Epilogue::SiluGlu => silu(sum) * ups[i],
            };
            sums.into_iter().enumerate().map(finish).collect()
        })
        .collect();
    for i in 0..n {
        let row: Vec<f32> = columns.iter().map(|column| column[i] as f32).collect();
        match epilogue {
            Epilogue::F32 => memory.put_f32s(p.out, i * p.out_stride as usize, &row)?,
            _ => memory.put_acts(p.out, i * p.out_stride as usize, &row)?,
        }
    }
    Ok(())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

pub(super) fn gemm(memory: &mut Memory<'_>, p: &Gemm) -> Result<(), DeviceError> {
    let (n, m, k) = (p.n as usize, p.m as usize, p.k as usize);
    for b in 0..p.batch as usize {
        let shared = b / (p.w_shared.max(1)) as usize;
        let x: Vec<Vec<f32>> = (0..n)
            .map(|i| {
                let first = b * p.x_batch_stride as usize + i * p.x_stride as usize;
                memory.acts(p.x, first, k)
            })
            .collect::<Result<_, _>>()?;
        let w_first = shared * p.w_batch_stride as usize;
        let (w_rows, w_width) = if p.w_is_kn == 1 { (k, m) } else { (m, k) };
        let stored: Vec<Vec<f32>> = (0..w_rows)
            .map(|row| memory.acts(p.w, w_first + row * p.w_stride as usize, w_width))
            .collect::<Result<_, _>>()?;
        let w: Vec<Vec<f32>> = match p.w_is_kn {
            1 => (0..m)
                .map(|j| stored.iter().map(|row| row[j]).collect())
                .collect(),
            _ => stored,
        };
        let rows: Vec<Vec<f32>> = x
            .par_iter()
            .map(|x| w.iter().map(|w| dot(x, w) as f32).collect())
            .collect();
        for (i, row) in rows.iter().enumerate() {
            let first = b * p.out_batch_stride as usize + i * p.out_stride as usize;
            match p.out_is_f32 {
                1 => memory.put_f32s(p.out, first, row)?,
                _ => memory.put_acts(p.out, first, row)?,
            }
        }
    }
    Ok(())
}

pub(super) fn dequantize(
    memory: &mut Memory<'_>,
    p: &Dequantize,
    format: MatrixFormat,
) -> Result<(), DeviceError> {
    let (k, row_bytes) = (p.k as usize, p.row_bytes as usize);
    let mut values = vec![0.0; k];
    for j in 0..p.m as usize {
        let row = p.w.offset((j * row_bytes) as u64);
        format.unpack(memory.bytes(row, row_bytes)?, &mut values);
        memory.put_acts(p.out, j * k, &values)?;
    }
    Ok(())
}

pub(super) fn quantize(
    memory: &mut Memory<'_>,
    p: &Quantize,
    format: MatrixFormat,
) -> Result<(), DeviceError> {
    let (k, row_bytes) = (p.k as usize, p.row_bytes as usize);
    let parts = format.parts(k);
    for j in 0..p.m as usize {
        let values = memory.acts(p.x, j * k, k)?;
        let row = p.out.offset((j * row_bytes) as u64);
        let out = memory.bytes_mut(row, row_bytes)?;
        if format == MatrixFormat::W4 {
            out[..k / 2].fill(0);
        }
        for (group, values) in values.chunks(GROUP).enumerate() {
            let scale = match format {
                MatrixFormat::W4 => w4_scale(values),
                _ => w8_scale(values),
            };
            out[parts[1] + 2 * group..][..2].copy_from_slice(&scale.to_le_bytes());
            for (index, value) in values.iter().enumerate() {
                let l = group * GROUP + index;
                if format == MatrixFormat::W4 {
                    let (byte, shift) = nibble_place(l);
                    out[byte] |= w4_quant(*value, scale.to_f32()) << shift;
                } else {
                    out[l] = w8_quant(*value, scale.to_f32()) as u8;
                }
            }
        }
    }
    Ok(())
}

fn greatest_magnitude(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |greatest, value| value.abs().max(greatest))
}

/// The greatest magnitude becomes 127.
fn w8_scale(values: &[f32]) -> half::bf16 {
    half::bf16::from_f32(greatest_magnitude(values) / 127.0)
}

fn w8_quant(value: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// Of ten scales the first whose squared error is least, by the rules of `quantize.cu`: the value
/// of greatest magnitude becomes -8, 7, -8.5, 7.5, ... before it is rounded and clamped.
fn w4_scale(values: &[f32]) -> half::bf16 {
    let greatest = values.iter().copied().fold(0.0, f32::max);
    let least = values.iter().copied().fold(0.0, f32::min);
    let peak = if greatest >= -least { greatest } else { least };
    let mut best = (half::bf16::ZERO, f32::INFINITY);
    for candidate in 0..10_u8 {
        let step = 0.5 * f32::from(candidate / 2);
        let divisor = if candidate % 2 == 0 {
            -(8.0 + step)
        } else {
            7.0 + step
        };
        let scale = half::bf16::from_f32(peak / divisor);
        let error = w4_error(values, scale.to_f32());
        if error < best.1 {
            best = (scale, error);
        }
    }
    best.0
}

/// The squared error, summed as a warp sums it: 4 neighbours a lane, then a butterfly.
fn w4_error(values: &[f32], scale: f32) -> f32 {
    let mut sums = [0.0_f32; 32];
    for (sum, values) in sums.iter_mut().zip(values.chunks(4)) {
        for value in values {
            let code = f32::from(w4_quant(*value, scale)) - 8.0;
            let error = (-scale).mul_add(code, *value);
            *sum = error.mul_add(error, *sum);
        }
    }
    for distance in [16, 8, 4, 2, 1] {
        sums = std::array::from_fn(|lane| sums[lane] + sums[lane ^ distance]);
    }
    sums[0]
}

fn w4_quant(value: f32, scale: f32) -> u8 {
    if scale == 0.0 {
        return 8;
    }
    ((value / scale).round_ties_even().clamp(-8.0, 7.0) + 8.0) as u8
}
