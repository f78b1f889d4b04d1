//! Choosing tokens: by sorting, where the kernels search.

use std::collections::HashMap;

use super::{Memory, input_token};
use crate::device::{
    DeviceError,
    launch::Upload,
    memory::Address,
    ops::{Bias, Logprobs, MAX_LOGPROBS, Penalize, RowLogprobs, RowSampling, Sample},
};

/// Units of a weight: 2^-40.
const UNIT: f64 = (1_u64 << 40) as f64;

fn row_params(
    memory: &Memory<'_>,
    params: Address,
    row: usize,
) -> Result<RowSampling, DeviceError> {
    let words = size_of::<RowSampling>() / 4;
    let w = memory.u32s(params.offset((4 * row * words) as u64), words)?;
    Ok(RowSampling {
        flags: w[0],
        temperature: f32::from_bits(w[1]),
        top_k: w[2],
        top_p: f32::from_bits(w[3]),
        min_p: f32::from_bits(w[4]),
        repetition_penalty: f32::from_bits(w[5]),
        presence_penalty: f32::from_bits(w[6]),
        frequency_penalty: f32::from_bits(w[7]),
        random: u64::from(w[8]) | u64::from(w[9]) << 32,
        history_start: w[10],
        history_len: w[11],
        history_prompt: w[12],
        bias_start: w[13],
        bias_len: w[14],
        mask: w[15],
        newest: w[16],
        newest_is_generated: w[17],
    })
}

fn logits_of(
    memory: &Memory<'_>,
    logits: Address,
    row: usize,
    vocab: u32,
) -> Result<Vec<f32>, DeviceError> {
    memory.f32s(
        logits.offset(4 * row as u64 * u64::from(vocab)),
        vocab as usize,
    )
}

pub(super) fn logprobs(memory: &mut Memory<'_>, p: &Logprobs) -> Result<(), DeviceError> {
    for row in 0..p.n as usize {
        let params = row_params(memory, p.params, row)?;
        if params.flags & RowSampling::LOGPROBS == 0 {
            continue;
        }
        let logits = logits_of(memory, p.logits, row, p.vocab)?;
        let ids = finite_by_size(&logits);
        let greatest = ids
            .first()
            .map_or(f32::NEG_INFINITY, |id| logits[*id as usize]);
        let weight = |id: &u32| (f64::from(logits[*id as usize]) - f64::from(greatest)).exp();
        let total: f64 = ids.iter().map(weight).sum();
        let mut report = RowLogprobs {
            log_total: (f64::from(greatest) + total.ln()) as f32,
            count: ids.len().min(MAX_LOGPROBS) as u32,
            tokens: [0; MAX_LOGPROBS],
            logits: [0.0; MAX_LOGPROBS],
        };
        for (index, id) in ids.into_iter().take(MAX_LOGPROBS).enumerate() {
            report.tokens[index] = id;
            report.logits[index] = logits[id as usize];
        }
        let bytes = [report];
        let at = p.out.offset((row * size_of::<RowLogprobs>()) as u64);
        memory
            .bytes_mut(at, size_of::<RowLogprobs>())?
            .copy_from_slice(bytes.as_bytes());
    }
    Ok(())
}

/// The ids of finite logits, the greatest first, the lower id first among equals.
fn finite_by_size(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32)
        .filter(|id| logits[*id as usize].is_finite())
        .collect();
    // 0 and -0 are equal.
    let logit = |id: &u32| logits[*id as usize] + 0.0;
    ids.sort_by(|a, b| logit(b).total_cmp(&logit(a)).then(a.cmp(b)));
    ids
}

pub(super) fn penalize(memory: &mut Memory<'_>, p: &Penalize) -> Result<(), DeviceError> {
    for row in 0..p.n as usize {
        let params = row_params(memory, p.params, row)?;
        if params.flags & RowSampling::CHANGED == 0 {
            continue;
        }
        let mut logits = logits_of(memory, p.logits, row, p.vocab)?;
        let biases = memory.u32s(
            p.biases
                .offset((params.bias_start as usize * size_of::<Bias>()) as u64),
            2 * params.bias_len as usize,
        )?;
        for bias in biases.chunks_exact(2) {
            if let Some(logit) = logits.get_mut(bias[0] as usize) {
                *logit += f32::from_bits(bias[1]);
            }
        }
        penalize_seen(memory, p, &params, &mut logits)?;
        if params.flags & RowSampling::MASKED != 0 {
            let words = p.vocab.div_ceil(32) as usize;
            let mask = memory.u32s(
                p.masks.offset((4 * words * params.mask as usize) as u64),
                words,
            )?;
            for (id, logit) in logits.iter_mut().enumerate() {
                if mask[id / 32] >> (id % 32) & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        memory.put_f32s(p.logits, row * p.vocab as usize, &logits)?;
    }
    Ok(())
}

fn penalize_seen(
    memory: &Memory<'_>,
    p: &Penalize,
    params: &RowSampling,
    logits: &mut [f32],
) -> Result<(), DeviceError> {
    let is_on = params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0;
    if !is_on {
        return Ok(());
    }
    let start = p.history.offset(4 * u64::from(params.history_start));
    let mut seen = memory.u32s(start, params.history_len as usize)?;
    let newest = input_token(
        memory,
        params.newest as usize,
        p.tokens,
        p.sources,
        p.sampled,
    )?;
    seen.push(newest);
    // How often each token was generated; 0 for those of the prompt alone.
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for (index, token) in seen.iter().enumerate() {
        let is_generated = match index < params.history_len as usize {
            true => index >= params.history_prompt as usize,
            false => params.newest_is_generated == 1,
        };
        *counts.entry(*token).or_default() += u32::from(is_generated);
    }
    for (token, count) in counts {
        let Some(logit) = logits.get_mut(token as usize) else {
            continue;
        };
        if *logit > 0.0 {
            *logit /= params.repetition_penalty;
        } else {
            *logit *= params.repetition_penalty;
        }
        if count > 0 {
            *logit -= params.presence_penalty + count as f32 * params.frequency_penalty;
        }
    }
    Ok(())
}

pub(super) fn sample(memory: &mut Memory<'_>, p: &Sample) -> Result<(), DeviceError> {
    for row in 0..p.n as usize {
        let params = row_params(memory, p.params, row)?;
        if params.flags & RowSampling::DRAW == 0 {
            continue;
        }
        let logits = logits_of(memory, p.logits, row, p.vocab)?;
        let id = choose(&logits, &params);
        let logit = logits.get(id as usize).copied().unwrap_or(f32::NAN);
        memory.put_u32s(p.sampled, row, &[id])?;
        memory.put_f32s(p.sampled_logits, row, &[logit])?;
    }
    Ok(())
}

/// `u32::MAX` where there is nothing to choose from.
fn choose(logits: &[f32], params: &RowSampling) -> u32 {
    let mut ids = finite_by_size(logits);
    let Some(&best) = ids.first() else {
        return u32::MAX;
    };
    if params.temperature == 0.0 {
        return best;
    }
    let greatest = logits[best as usize];
    let weight = |id: u32| ((logits[id as usize] - greatest) / params.temperature).exp();
    let mass = |id: u32| (f64::from(weight(id)) * UNIT).round_ties_even() as u64;
    if params.top_k > 0 {
        ids.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        let total: u64 = ids.iter().map(|id| mass(*id)).sum();
        let wanted = (f64::from(params.top_p) * total as f64) as u64;
        let mut reached = 0;
        let mut count = 0;
        while count < ids.len() && (count == 0 || reached < wanted) {
            reached += mass(ids[count]);
            count += 1;
        }
        ids.truncate(count);
    }
    ids.retain(|id| weight(*id) >= params.min_p);
    ids.sort_unstable();
    let total: u64 = ids.iter().map(|id| mass(*id)).sum();
    let target = ((u128::from(params.random) * u128::from(total)) >> 64) as u64;
    let mut reached = 0;
    for &id in &ids {
        reached += mass(id);
        if reached > target {
            return id;
        }
    }
    best
}
