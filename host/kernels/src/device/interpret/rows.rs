//! Operations on rows of activations.

use super::{Memory, capped, gelu_tanh, silu};
use crate::device::{
    Address, DeviceError, Precision,
    ops::{AddNorm, CountNonFinite, FillRandom, Glu, KV_BLOCK, ReadProbe, RopeKv, SoftCap},
};

/// `x / sqrt(mean(x^2) + eps) * weight`.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    let normed = |(x, weight): (&f32, &f32)| (f64::from(*x) * scale * f64::from(*weight)) as f32;
    x.iter().zip(weight).map(normed).collect()
}

pub(super) fn add_norm(memory: &mut Memory<'_>, p: &AddNorm) -> Result<(), DeviceError> {
    let hidden = p.hidden as usize;
    let post_weight = memory.optional_f32s(p.post_weight, hidden)?;
    let next_weight = memory.f32s(p.next_weight, hidden)?;
    for i in 0..p.n as usize {
        let row = match p.rows {
            Address::NONE => i,
            rows => memory.u32_at(rows, i)? as usize,
        };
        let at = |address: Address| address.offset(4 * (row * hidden) as u64);
        let mut branch = memory.f32s(at(p.branch), hidden)?;
        if let Some(weight) = &post_weight {
            branch = rms_norm(&branch, weight, p.eps);
        }
        let mut residual = memory.f32s(at(p.residual), hidden)?;
        for (residual, branch) in residual.iter_mut().zip(&branch) {
            *residual += branch;
        }
        memory.put_f32s(p.residual, row * hidden, &residual)?;
        let out = rms_norm(&residual, &next_weight, p.eps);
        memory.put_acts(p.out, i * hidden, &out)?;
    }
    Ok(())
}

pub(super) fn glu(memory: &mut Memory<'_>, p: &Glu) -> Result<(), DeviceError> {
    let inner = p.inner as usize;
    for i in 0..p.n as usize {
        let x = memory.acts(p.x, 2 * i * inner, 2 * inner)?;
        let (gate, up) = x.split_at(inner);
        let activation = if p.silu == 1 { silu } else { gelu_tanh };
        let gated =
            |(gate, up): (&f32, &f32)| (activation(f64::from(*gate)) * f64::from(*up)) as f32;
        let out: Vec<f32> = gate.iter().zip(up).map(gated).collect();
        memory.put_acts(p.out, i * inner, &out)?;
    }
    Ok(())
}

pub(super) fn soft_cap(memory: &mut Memory<'_>, p: &SoftCap) -> Result<(), DeviceError> {
    let mut x = memory.f32s(p.x, p.count as usize)?;
    for x in &mut x {
        *x = capped(f64::from(*x), p.cap) as f32;
    }
    memory.put_f32s(p.x, 0, &x)
}

pub(super) fn rope_kv(memory: &mut Memory<'_>, p: &RopeKv, dim: usize) -> Result<(), DeviceError> {
    let (heads, kv_heads) = (p.heads as usize, p.kv_heads as usize);
    let all = heads + 2 * kv_heads;
    let inv_freq = memory.f32s(p.inv_freq, dim / 2)?;
    let q_norm = memory.optional_f32s(p.q_norm, dim)?;
    let k_norm = memory.optional_f32s(p.k_norm, dim)?;
    for i in 0..p.n as usize {
        let position = memory.u32_at(p.positions, i)?;
        let slot = memory.u32_at(p.slots, i)?;
        let row = memory.acts(p.qkv, i * all * dim, all * dim)?;
        for (head, x) in row.chunks_exact(dim).enumerate() {
            let turned = |norm: &Option<Vec<f32>>| {
                let x = norm.as_ref().map_or(x.to_vec(), |w| rms_norm(x, w, p.eps));
                turn(&x, position, &inv_freq, p.interleaved == 1)
            };
            let page = |kv_head: usize| {
                let block = (slot / KV_BLOCK) as usize;
                let place = (slot % KV_BLOCK) as usize;
                ((block * kv_heads + kv_head) * KV_BLOCK as usize + place) * dim
            };
            if head < heads {
                memory.put_acts(p.q_out, (i * heads + head) * dim, &turned(&q_norm))?;
            } else if head < heads + kv_heads {
                memory.put_acts(p.k_cache, page(head - heads), &turned(&k_norm))?;
            } else {
                memory.put_acts(p.v_cache, page(head - heads - kv_heads), x)?;
            }
        }
    }
    Ok(())
}

fn turn(x: &[f32], position: u32, inv_freq: &[f32], interleaved: bool) -> Vec<f32> {
    let mut out = x.to_vec();
    for (i, frequency) in inv_freq.iter().enumerate() {
        let (first, second) = match interleaved {
            true => (2 * i, 2 * i + 1),
            false => (i, i + inv_freq.len()),
        };
        // The angle is rounded to float32, as every implementation of these models rounds it.
        let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
        let (a, b) = (f64::from(x[first]), f64::from(x[second]));
        out[first] = (a * cos - b * sin) as f32;
        out[second] = (b * cos + a * sin) as f32;
    }
    out
}

pub(super) fn count_non_finite(
    memory: &mut Memory<'_>,
    p: &CountNonFinite,
) -> Result<(), DeviceError> {
    let count = p.count as usize;
    let is_odd = match p.kind {
        0 => memory.arena.acts(Precision::Bf16, memory.op, p.x, count)?,
        1 => memory.f32s(p.x, count)?,
        _ => {
            let bytes = memory.bytes(p.x, 2 * count)?.as_chunks().0;
            let values = bytes.iter().map(|bytes| half::f16::from_le_bytes(*bytes));
            values.map(half::f16::to_f32).collect()
        }
    };
    let found = is_odd.iter().filter(|value| !value.is_finite()).count();
    let before = memory.u32_at(p.counter, 0)?;
    memory.put_u32s(p.counter, 0, &[before + found as u32])
}

/// Box-Muller over two hashes of seed and index (SplitMix64).
pub(super) fn fill_random(memory: &mut Memory<'_>, p: &FillRandom) -> Result<(), DeviceError> {
    let uniform = |index: u64| {
        let mut z = p
            .seed
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
    };
    let value = |index: u64| {
        // The first away from 0, whose logarithm there is not.
        let (first, second) = (1.0 - uniform(2 * index), uniform(2 * index + 1));
        let normal = (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos();
        (normal * f64::from(p.std)) as f32
    };
    let values: Vec<f32> = (0..p.count).map(value).collect();
    memory.put_acts(p.out, 0, &values)
}

/// Block `b` of `blocks` sums the words that its threads visit: the total over all blocks is the
/// sum of all words, and that is what block 0 gets here.
pub(super) fn read_probe(memory: &mut Memory<'_>, p: &ReadProbe) -> Result<(), DeviceError> {
    let words = memory.u32s(p.x, p.bytes as usize / 4)?;
    let total = words
        .iter()
        .fold(0_u32, |sum, word| sum.wrapping_add(*word));
    let mut sums = vec![0; p.blocks as usize];
    sums[0] = total;
    memory.put_u32s(p.out, 0, &sums)
}
